"""Finds attention cores: the call, or the pair of matrix products around a softmax, whose operands are q, k and v."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

from fa3cli.patching.locating.statements import (
    assigned,
    parents,
    simple_statements,
    statements_on_path,
    used_names,
)
from fa3cli.patching.locating.views import callee

__all__ = ["KERNELS", "Core", "find_cores"]

# ALL_ATTENTION_FUNCTIONS; up to transformers 4.49 some files have their own, such as GPTNEOX_ATTENTION_FUNCTION.
_DISPATCHER = re.compile(r"\w+_ATTENTION_FUNCTIONS?|eager_attention_forward")
_FLASH = {"_flash_attention_forward", "flash_attn_func"}
# Functions of diffusion transformers (diffusers, MindIE). Their states have this layout everywhere, so the quantizer is
# created with it.
_LAYOUT_TAKERS = {"dispatch_attention_fn": "BSHD", "apply_fa": "BSHD"}
# Functions of Tencent's models that take sequence lengths, and how many arguments come before q.
_BY_LENGTHS = {"attention": 0, "parallel_attention": 1}
# torch_npu's function has an argument for the layout.
_NPU = "npu_fusion_attention"
_NPU_LAYOUTS = {"BNSD": "BHSD", "BSND": "BSHD"}
# Functions whose calls are always cores.
KERNELS = _FLASH | {"scaled_dot_product_attention", *_LAYOUT_TAKERS}
_PRODUCTS = {"matmul", "bmm", "baddbmm"}

Refuse = Callable[[ast.AST, str], Exception]


@dataclass(frozen=True)
class Core:
    """One core: for each of q, k, v the statement that reads it, the operand, and the operand's axes.

    Axes: B batch, H heads, S positions, D head size, N = B*H; None if unknown. With `pass_layout`, the quantizer is
    created with a layout other than BHSD; otherwise each call transposes the states to BHSD and back.
    """

    statements: dict[str, ast.stmt]
    operands: dict[str, ast.expr]
    axes: dict[str, str | None]
    flash: bool = False
    pass_layout: bool = False


def find_cores(function: ast.FunctionDef, refuse: Refuse) -> list[Core]:
    """All cores of a function in the order of the text; methods that it calls are not searched."""
    cores = []
    dispatched = _dispatched_names(function)
    nested = _nested(function)
    for statement in simple_statements(function.body):
        for call in ast.walk(statement):
            if isinstance(call, ast.Call):
                core = _called_core(call, statement, dispatched)
                if core and id(call) in nested:
                    raise refuse(
                        call, "attention is computed in a function within the function, or in a comprehension"
                    )
                cores += [core] if core else []
            if isinstance(call, ast.Call) and _is_softmax(call) and id(call) not in nested:
                core = _product_core(function, statement, call, refuse)
                cores += [core] if core else []
    return cores


def _nested(function: ast.FunctionDef) -> set[int]:
    """The ids of the nodes in inner scopes of a function: there, a name may stand for another variable."""
    scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)
    inner = [scope for scope in ast.walk(function) if isinstance(scope, scopes) and scope is not function]
    return {id(node) for scope in inner for node in ast.walk(scope)}


def _dispatched_names(function: ast.FunctionDef) -> set[str]:
    """Local names that may hold an attention function: `attention_interface = ALL_ATTENTION_FUNCTIONS[...]`."""
    names = {
        part.id
        for part in ast.walk(function)
        if isinstance(part, ast.Name) and _DISPATCHER.fullmatch(part.id)
    }
    for statement in simple_statements(function.body):
        value = getattr(statement, "value", None)
        nodes = list(ast.walk(value)) if value is not None else []
        mentions = any(isinstance(node, ast.Name) and _DISPATCHER.fullmatch(node.id) for node in nodes)
        if mentions and not any(isinstance(node, ast.Call) and _called(node) in names for node in nodes):
            names |= assigned(statement)
    return names


def _called_core(call: ast.Call, statement: ast.stmt, dispatched: set[str]) -> Core | None:
    name = _called(call)
    is_dispatch = name in dispatched and not isinstance(call.func, ast.Attribute)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    on_npu = name == _NPU and getattr(keywords.get("input_layout"), "value", None) in _NPU_LAYOUTS
    by_lengths = name in _BY_LENGTHS and "cu_seqlens_q" in keywords
    if not is_dispatch and not on_npu and not by_lengths and name not in KERNELS:
        return None
    has_module = is_dispatch and call.args and getattr(call.args[0], "id", "") == "self"
    positional = call.args[1 if has_module else _BY_LENGTHS.get(name, 0) if by_lengths else 0 :]
    operands = {}
    for index, (role, keyword) in enumerate(zip("qkv", ("query", "key", "value"))):
        operand = (
            positional[index]
            if index < len(positional)
            else keywords.get(keyword, keywords.get(f"{keyword}_states"))
        )
        if operand is None or isinstance(operand, ast.Starred):
            return None
        operands[role] = operand
    axes = "BSHD" if name in _FLASH or by_lengths else _LAYOUT_TAKERS.get(name, "BHSD")
    if on_npu:
        axes = _NPU_LAYOUTS[keywords["input_layout"].value]
    pass_layout = name in _LAYOUT_TAKERS or on_npu or by_lengths
    return Core(
        dict.fromkeys("qkv", statement), operands, dict.fromkeys("qkv", axes), name in _FLASH, pass_layout
    )


def _called(call: ast.Call) -> str:
    """The name of the called function; for `TABLE[key](...)` the name of the table."""
    return getattr(call.func.value, "id", "") if isinstance(call.func, ast.Subscript) else callee(call)


def _is_softmax(call: ast.Call) -> bool:
    inner = call.func if isinstance(call.func, ast.Call) else call  # nn.Softmax(dim=-1)(scores)
    return callee(inner).lower() == "softmax" and not (inner is call and callee(call) == "Softmax")


def _product_core(
    function: ast.FunctionDef, statement: ast.stmt, softmax: ast.Call, refuse: Refuse
) -> Core | None:
    """softmax(q k^T ...) v: the only product that the softmax depends on, and the first that depends on the softmax."""
    path = statements_on_path(function.body, statement)
    at, parent_of = path.index(statement), parents(function)
    scores = _products_before(path[:at], softmax, statement, parent_of)
    if not scores:
        return None  # another softmax, such as routing or gating
    if len(scores) > 1:
        raise refuse(
            scores[1][1], "several matrix products make up the attention scores (relative attention?)"
        )
    context = _product_after(path[at:], softmax, parent_of)
    if context is None:
        raise refuse(softmax, "found no matrix product of the attention weights with the values")
    (first_statement, first), (last_statement, last) = scores[0], context
    q, k, flat = _operands(first)
    _, v, flat_v = _operands(last)
    axes = {"q": "NSD" if flat else "BHSD", "k": "NDS" if flat else "BHDS", "v": "NSD" if flat_v else "BHSD"}
    return Core(
        {"q": first_statement, "k": first_statement, "v": last_statement}, {"q": q, "k": k, "v": v}, axes
    )


def _products_before(
    before: list[ast.stmt], softmax: ast.Call, statement: ast.stmt, parent_of: dict[ast.AST, ast.AST]
) -> list[tuple[ast.stmt, ast.expr]]:
    found = [(statement, product) for product in _products(softmax)]
    needed = set() if found else {name.id for name in used_names(softmax, parent_of)}
    for assignment in reversed(before):
        if not assigned(assignment) & needed or assignment.value is None:
            continue
        products = _products(assignment.value)
        found += [(assignment, product) for product in products]
        if isinstance(assignment, ast.Assign) and isinstance(parent_of[assignment], ast.FunctionDef):
            needed -= assigned(assignment)  # earlier values of the name were overwritten
        needed |= set() if products else {name.id for name in used_names(assignment.value, parent_of)}
    return found


def _product_after(
    after: list[ast.stmt], softmax: ast.Call, parent_of: dict[ast.AST, ast.AST]
) -> tuple[ast.stmt, ast.expr] | None:
    tainted: set[str] = set()
    for statement in after:
        for product in _products(statement):
            left = _operands(product)[0]
            if any(node is softmax for node in ast.walk(left)) or tainted & {
                n.id for n in used_names(left, parent_of)
            }:
                return statement, product
        value = getattr(statement, "value", None)
        if value is not None:
            reads = {name.id for name in used_names(value, parent_of)}
            if reads & tainted or any(node is softmax for node in ast.walk(value)):
                tainted |= assigned(statement)
    return None


def _products(node: ast.AST) -> list[ast.expr]:
    """The outermost matrix products in a node."""
    if _operands(node) is not None:
        return [node]
    return [product for child in ast.iter_child_nodes(node) for product in _products(child)]


def _operands(node: ast.AST) -> tuple[ast.expr, ast.expr, bool] | None:
    """The two operands of a matrix product and whether they are 3-D; None for any other node."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return node.left, node.right, False
    if not isinstance(node, ast.Call) or callee(node) not in _PRODUCTS:
        return None
    arguments = list(node.args)
    if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") != "torch":
        arguments.insert(0, node.func.value)
    if callee(node) == "baddbmm":
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        arguments = [*arguments[1:], *filter(None, [keywords.get("batch1"), keywords.get("batch2")])]
    return (arguments[0], arguments[1], callee(node) != "matmul") if len(arguments) >= 2 else None
