from fa3cli.patching.locating.classes import ClassGraph
from fa3cli.patching.locating.modalities import language_model
from fa3cli.patching.source import parse

MODEL = """
class Eye: ...
class Shared: ...
class Vision:
    def __init__(self, config):
        self.parts = Eye(config), Shared(config)
class Embedding:
    def __init__(self, config):
        self.tower = Vision._from_config(config.vision_config)
        self.shared = Shared(config)
class Model:
    def __init__(self, config):
        self.parts = Embedding(config), Embedding(layers=config.text_config)
"""


def parts(text: str) -> set[str]:
    source = parse(text, "m.py")
    graph = ClassGraph(source)
    return language_model(source, graph, "Model") & set(graph.classes)


def test_only_classes_built_from_a_vision_config_are_excluded() -> None:
    assert parts(MODEL) == {"Model", "Embedding", "Shared"}
    assert parts(MODEL.replace("vision_config", "other_config")) == {
        "Model",
        "Embedding",
        "Shared",
        "Vision",
        "Eye",
    }
