"""Model families: each is found by its models' configurations or by tasks, and nothing outside has to name it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

import sfa.mlp  # noqa: F401  registers its architecture
from sfa.data import registered
from sfa.families import WrongFamily, family_of, family_of_tasks
from sfa.families.base import FAMILIES
from sfa.families.decoder import Decoder
from sfa.families.encoder_decoder import EncoderDecoder
from sfa.families.image_classifier import ImageClassifier


@pytest.mark.parametrize(
    ("kind", "options", "family"),
    [
        ("gpt_neox", {}, Decoder()),
        ("bart", {"is_encoder_decoder": False, "is_decoder": True}, Decoder()),
        ("bart", {}, EncoderDecoder()),
        ("t5", {}, EncoderDecoder()),
        ("vit", {"num_labels": 5}, ImageClassifier(5)),
        ("mlp", {"num_labels": 7}, ImageClassifier(7)),
    ],
)
def test_the_family_of_a_model_shows_in_its_configuration(kind: str, options: dict[str, Any], family: Any) -> None:
    assert family_of(transformers.AutoConfig.for_model(kind, **options)) == family


def test_a_model_of_another_family_than_the_tasks_need_is_refused() -> None:
    with pytest.raises(WrongFamily, match="vit is no language model, and the tasks need one"):
        family_of(transformers.ViTConfig(), "text")
    with pytest.raises(WrongFamily, match="bert is no image classifier, and the tasks need one"):
        family_of(transformers.BertConfig(), "images")
    with pytest.raises(WrongFamily, match="no language model and no image classifier that transformers knows"):
        family_of(transformers.Wav2Vec2Config())


def test_the_head_of_a_stream_of_images_has_all_labels() -> None:
    tasks = [registered("glyphs", labels=(1, 2)), registered("digits")]
    assert family_of_tasks(tasks) == ImageClassifier(100)
    with pytest.raises(ValueError, match="images and text cannot be in one stream"):
        family_of_tasks([*tasks, registered("arithmetic")])


def test_a_family_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which registers itself, and is found before the others are asked for what it knows."""
    monkeypatch.setattr("sfa.families.base.FAMILIES", dict(FAMILIES))

    class Listener(Decoder):
        name = "listener"
        description = "speech recogniser"

        @classmethod
        def knows(cls, configuration: Any) -> bool:
            return isinstance(configuration, transformers.Wav2Vec2Config)

        @classmethod
        def refuse(cls, configuration: Any) -> None:
            return None

    assert isinstance(family_of(transformers.Wav2Vec2Config()), Listener)
    assert family_of(transformers.GPT2Config()) == Decoder()


def test_a_family_of_another_package_is_found(tmp_path: Path) -> None:
    """From its entry point, in a new process, for the suite's families are registered when they are imported."""
    (tmp_path / "listener.py").write_text(
        "from sfa.families.decoder import Decoder\n\n"
        "class Listener(Decoder):\n"
        "    name = 'listener'\n\n"
        "    @classmethod\n"
        "    def knows(cls, configuration):\n"
        "        return configuration.model_type == 'wav2vec2'\n\n"
        "    @classmethod\n"
        "    def refuse(cls, configuration):\n"
        "        pass\n"
    )
    about = tmp_path / "listener-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: listener\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sfa.families]\nlistener = listener\n")
    root = Path(__file__).parent.parent
    code = f"import sys; sys.path[:0] = [{str(root)!r}, {str(tmp_path)!r}]; from sfa.families import family_of; "
    code += "import transformers; print(family_of(transformers.Wav2Vec2Config()).name)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "listener\n"


def test_a_stream_s_family_is_known_without_torch_and_transformers() -> None:
    code = (
        "import sys; from sfa.data import registered; from sfa.families import family_of_tasks; "
        "print(family_of_tasks([registered('arithmetic')]).description, {'torch', 'transformers'} & {*sys.modules})"
    )
    root = Path(__file__).parent.parent
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout == "language model set()\n"
