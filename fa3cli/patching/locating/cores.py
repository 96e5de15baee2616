"""Finds attention cores: the call, or the pair of matrix products around a softmax, whose operands are q, k and v."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fa3cli.patching.locating.statements import (
    assigned,
    callee,
    calls_in,
    names_in,
    parents,
    simple_statements,
    statements_on_path,
    used_names,
    value_of,
)

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

    statements: Mapping[str, ast.stmt]
    operands: Mapping[str, ast.expr]
    axes: Mapping[str, str | None]
    flash: bool = False
    pass_layout: bool = False


class _Product(NamedTuple):
    """A matrix product: its node, its two operands, and whether they are 3-D."""

    node: ast.expr
    left: ast.expr
    right: ast.expr
    flat: bool


def find_cores(function: ast.FunctionDef, refuse: Refuse) -> list[Core]:
    """Return all cores of a function in the order of the text; methods that it calls are not searched."""
    cores = []
    dispatched = _dispatched_names(function)
    nested = _nested(function)
    for statement in simple_statements(function.body):
        for call in calls_in(statement):
            core = _called_core(call, statement, dispatched)
            if core and id(call) in nested:
                raise refuse(call, "attention is computed in a function within the function, or in a comprehension")
            cores += [core] if core else []
            if _is_softmax(call) and id(call) not in nested:
                core = _product_core(function, statement, call, refuse)
                cores += [core] if core else []
    return cores


def _nested(function: ast.FunctionDef) -> set[int]:
    """Return the ids of the nodes in inner scopes of a function: there, a name may stand for another variable."""
    scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)
    inner = [scope for scope in ast.walk(function) if isinstance(scope, scopes) and scope is not function]
    return {id(node) for scope in inner for node in ast.walk(scope)}


def _dispatched_names(function: ast.FunctionDef) -> set[str]:
    """Return local names that may hold an attention function: `attention_interface = ALL_ATTENTION_FUNCTIONS[...]`."""
    tables = set(filter(_DISPATCHER.fullmatch, names_in(function)))
    names = set(tables)
    for statement in simple_statements(function.body):
        value = value_of(statement)
        if value is None or not tables & names_in(value):
            continue
        if not any(_called(call) in names for call in calls_in(value)):
            names |= assigned(statement)
    return names


def _called_core(call: ast.Call, statement: ast.stmt, dispatched: set[str]) -> Core | None:
    name = _called(call)
    is_dispatch = name in dispatched and not isinstance(call.func, ast.Attribute)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    npu_axes = _NPU_LAYOUTS.get(getattr(keywords.get("input_layout"), "value", "")) if name == _NPU else None
    by_lengths = name in _BY_LENGTHS and "cu_seqlens_q" in keywords
    if not is_dispatch and not npu_axes and not by_lengths and name not in KERNELS:
        return None
    has_module = is_dispatch and call.args and getattr(call.args[0], "id", "") == "self"
    positional = call.args[1 if has_module else _BY_LENGTHS.get(name, 0) if by_lengths else 0 :]
    operands = {}
    for index, (role, keyword) in enumerate(zip("qkv", ("query", "key", "value"))):
        operand = (
            positional[index] if index < len(positional) else keywords.get(keyword, keywords.get(f"{keyword}_states"))
        )
        if operand is None or isinstance(operand, ast.Starred):
            return None
        operands[role] = operand
    axes = npu_axes or ("BSHD" if name in _FLASH or by_lengths else _LAYOUT_TAKERS.get(name, "BHSD"))
    pass_layout = name in _LAYOUT_TAKERS or npu_axes is not None or by_lengths
    return Core(dict.fromkeys("qkv", statement), operands, dict.fromkeys("qkv", axes), name in _FLASH, pass_layout)


def _called(call: ast.Call) -> str:
    """Return the name of the called function; for `TABLE[key](...)` the name of the table."""
    return getattr(call.func.value, "id", "") if isinstance(call.func, ast.Subscript) else callee(call)


def _is_softmax(call: ast.Call) -> bool:
    inner = call.func if isinstance(call.func, ast.Call) else call  # nn.Softmax(dim=-1)(scores)
    return callee(inner).lower() == "softmax" and not (inner is call and callee(call) == "Softmax")


def _product_core(function: ast.FunctionDef, statement: ast.stmt, softmax: ast.Call, refuse: Refuse) -> Core | None:
    """softmax(q k^T ...) v: the only product that the softmax depends on, and the first that depends on the softmax."""
    path = statements_on_path(function.body, statement)
    at, parent_of = path.index(statement), parents(function)
    scores = _products_before(path[:at], softmax, statement, parent_of)
    if not scores:
        return None  # another softmax, such as routing or gating
    if len(scores) > 1:
        raise refuse(scores[1][1].node, "several matrix products make up the attention scores (relative attention?)")
    context = _product_after(path[at:], softmax, parent_of)
    if context is None:
        raise refuse(softmax, "found no matrix product of the attention weights with the values")
    (first_statement, first), (last_statement, last) = scores[0], context
    q_axes, k_axes = ("NSD", "NDS") if first.flat else ("BHSD", "BHDS")
    return Core(
        {"q": first_statement, "k": first_statement, "v": last_statement},
        {"q": first.left, "k": first.right, "v": last.right},
        {"q": q_axes, "k": k_axes, "v": "NSD" if last.flat else "BHSD"},
    )


def _products_before(
    before: list[ast.stmt], softmax: ast.Call, statement: ast.stmt, parent_of: dict[ast.AST, ast.AST]
) -> list[tuple[ast.stmt, _Product]]:
    found = [(statement, product) for product in _products(softmax)]
    needed = set() if found else {name.id for name in used_names(softmax, parent_of)}
    for assignment in reversed(before):
        value = value_of(assignment)
        if not assigned(assignment) & needed or value is None:
            continue
        products = _products(value)
        found += [(assignment, product) for product in products]
        if isinstance(assignment, ast.Assign) and isinstance(parent_of[assignment], ast.FunctionDef):
            needed -= assigned(assignment)  # earlier values of the name were overwritten
        needed |= set() if products else {name.id for name in used_names(value, parent_of)}
    return found


def _product_after(
    after: list[ast.stmt], softmax: ast.Call, parent_of: dict[ast.AST, ast.AST]
) -> tuple[ast.stmt, _Product] | None:
    dependent: set[str] = set()
    for statement in after:
        for product in _products(statement):
            reads = {name.id for name in used_names(product.left, parent_of)}
            if reads & dependent or any(node is softmax for node in ast.walk(product.left)):
                return statement, product
        value = value_of(statement)
        if value is not None:
            reads = {name.id for name in used_names(value, parent_of)}
            if reads & dependent or any(node is softmax for node in ast.walk(value)):
                dependent |= assigned(statement)
    return None


def _products(node: ast.AST) -> list[_Product]:
    """Return the outermost matrix products in a node."""
    if (found := _product(node)) is not None:
        return [found]
    return [product for child in ast.iter_child_nodes(node) for product in _products(child)]


def _product(node: ast.AST) -> _Product | None:
    """Return a matrix product with its operands; None for any other node."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return _Product(node, node.left, node.right, False)
    if not isinstance(node, ast.Call) or callee(node) not in _PRODUCTS:
        return None
    arguments = list(node.args)
    if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") != "torch":
        arguments.insert(0, node.func.value)
    if callee(node) == "baddbmm":
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        arguments = [*arguments[1:], *filter(None, [keywords.get("batch1"), keywords.get("batch2")])]
    if len(arguments) < 2:
        return None
    return _Product(node, arguments[0], arguments[1], callee(node) != "matmul")
