import textwrap

from fa3cli.patching.locating.classes import ClassGraph, attention_classes
from fa3cli.patching.source import parse
from tests.patching.samples import INTERFACE, modeling

TEXT = textwrap.dedent("""
    class Base(PreTrainedModel):
        _no_split_modules = [Vision]

    class A(nn.Module): ...
    class ASdpa(A): ...
    class AOther(nn.Module): ...
    class Vision(nn.Module): ...

    A_ATTENTION_CLASSES = {"eager": A, "other": AOther}

    class Layer(nn.Module):
        def __init__(self):
            self.attention = A_ATTENTION_CLASSES["eager"]()

    class Model(Base):
        def __init__(self):
            self.layers = [Layer()]
""")


def test_a_family_contains_subclasses_and_alternative_classes() -> None:
    graph = ClassGraph(parse(TEXT, "m.py"))
    assert graph.family("ASdpa") == {"A", "ASdpa", "AOther"}
    assert graph.family("Vision") == {"Vision"}


def test_classes_mentioned_in_a_base_class_are_not_reachable() -> None:
    reachable = ClassGraph(parse(TEXT, "m.py")).reachable("Model")
    assert {"Base", "Layer", "A", "AOther"} <= reachable
    assert "Vision" not in reachable


def test_attention_that_cannot_be_analysed_is_listed_with_its_line() -> None:
    text = modeling(INTERFACE) + textwrap.dedent("""
        class HashAttention(nn.Module):
            def forward(self, x):
                return self.attend(x)

            def attend(self, x):
                return torch.einsum("ij,jk", x, x).softmax(-1)

        def chunked(x):
            return torch.matmul(x, x).softmax(-1)

        class ChunkedAttention(nn.Module):
            def forward(self, x):
                return chunked(x)

        class Router(nn.Module):
            def forward(self, x):
                return torch.softmax(self.gate(x), -1)
    """)
    source = parse(text, "m.py")
    found = attention_classes(source, ClassGraph(source))
    assert list(found) == ["Attention", "HashAttention", "ChunkedAttention"]
    assert found["Attention"][0].states == ("a", "b", "c")
    assert "can't follow" in found["HashAttention"][0].problem
