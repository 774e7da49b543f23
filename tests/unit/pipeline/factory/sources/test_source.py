from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.factory.families import find_family
from pipeline.factory.family import Hints, Source
from pipeline.factory.progress import Progress
from pipeline.factory.sources.source import resolve_source, suggest_name

BERT = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}


def folder_of(place: Path, config: Any = BERT, *files: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    for name in files or ("model.safetensors",):
        (place / name).write_bytes(b"weights")
    return place


def no_fetch(repository: str, revision: str | None, progress: Progress) -> Path:
    pytest.fail(f"the hub was asked for {repository}")


def refusal(text: str | Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_source(str(text), fetch=no_fetch, **options)
    return str(caught.value)


def test_a_folder_gives_its_config_its_architecture_and_its_license(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: other\n")
    source = resolve_source(str(folder), task="text-classification", hints=Hints(size=(8, 8)), fetch=no_fetch)
    assert source == Source(
        kind="huggingface",
        origin=str(folder),
        path=folder,
        config=BERT,
        architecture="BertForSequenceClassification",
        task="text-classification",
        license="apache-2.0",
        hints=Hints(size=(8, 8)),
    )


def test_a_folder_without_a_readme_has_an_unknown_license(tmp_path: Path) -> None:
    assert resolve_source(str(folder_of(tmp_path)), fetch=no_fetch).license == "unknown"


def test_an_onnx_file_and_a_torchvision_name_are_sources(tmp_path: Path) -> None:
    graph, weights = tmp_path / "Model.ONNX", tmp_path / "weights.pth"
    graph.touch()
    weights.touch()
    found = resolve_source(str(graph), fetch=no_fetch)
    assert (found.kind, found.path) == ("onnx", graph)
    found = resolve_source("torchvision:resnet50", checkpoint=weights, fetch=no_fetch)
    assert (found.kind, found.architecture, found.path) == ("torchvision", "resnet50", weights)
    assert resolve_source("torchvision:resnet50", fetch=no_fetch).path is None


def test_a_hub_id_is_fetched_and_its_commit_is_written_down(tmp_path: Path) -> None:
    asked = []

    def fetch(repository: str, revision: str | None, progress: Progress) -> Path:
        asked.append((repository, revision))
        return folder_of(tmp_path / "0123abc")

    for text in ("Org/Some-Model", "hf:Org/Some-Model"):
        assert resolve_source(text, revision="v1", fetch=fetch).origin == "hf:Org/Some-Model@0123abc"
    assert resolve_source("hf:gpt2", fetch=fetch).origin == "hf:gpt2@0123abc"
    assert asked == [("Org/Some-Model", "v1"), ("Org/Some-Model", "v1"), ("gpt2", None)]


def test_a_folder_is_taken_before_a_hub_id_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "org" / "model")
    assert resolve_source("org/model", fetch=no_fetch).path == Path("org/model")


def test_what_is_misspelt_is_met_with_the_nearest_name(tmp_path: Path) -> None:
    folder_of(tmp_path / "sentiment")
    message = refusal(tmp_path / "sentimant")
    assert f"Did you mean {tmp_path / 'sentiment'}?" in message
    assert "ORG/NAME" in message
    assert f"There is no folder {tmp_path / 'nowhere'}" in refusal(tmp_path / "nowhere" / "model")


def test_a_folder_without_config_says_where_one_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json in this folder. It is written by save_pretrained" in refusal(tmp_path / "empty")
    folder_of(tmp_path / "outer" / "inner")
    assert f"There is one in {tmp_path / 'outer' / 'inner'}" in refusal(tmp_path / "outer")
    (tmp_path / "empty" / "model.onnx").touch()
    assert f"give the file itself: {tmp_path / 'empty' / 'model.onnx'}" in refusal(tmp_path / "empty")


def test_a_config_that_is_no_json_or_names_no_architecture_is_refused(tmp_path: Path) -> None:
    (folder_of(tmp_path / "broken") / "config.json").write_text('{"architectures": [')
    assert "config.json: cannot be read" in refusal(tmp_path / "broken")
    assert "holds a list, not an object" in refusal(folder_of(tmp_path / "list", []))
    assert "does not name what the model is" in refusal(folder_of(tmp_path / "nameless", {"model_type": "bert"}))


def test_a_model_that_brings_code_is_refused(tmp_path: Path) -> None:
    config = {**BERT, "auto_map": {"AutoModel": "modeling.MyModel"}}
    assert "runs no code from models" in refusal(folder_of(tmp_path, config))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    message = refusal(folder_of(tmp_path / "pickled", BERT, "pytorch_model.bin"))
    assert "pickles alone (pytorch_model.bin)" in message
    assert "there is no *.safetensors in it, only model.gguf" in refusal(folder_of(tmp_path / "q", BERT, "model.gguf"))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(BERT))
    assert "no other weights" in refusal(tmp_path / "bare")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.pt", "torchvision:NAME --checkpoint"),
        ("pytorch_model.bin", "may run code"),
        ("model.gguf", "GGUF files are not built from"),
        ("model.safetensors", "Give the folder that holds them"),
        ("notes.txt", "not a model that can be built"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).touch()
    assert said in refusal(tmp_path / name)


def test_a_checkpoint_must_exist_and_goes_with_torchvision_alone(tmp_path: Path) -> None:
    (tmp_path / "resnet.pth").touch()
    missing = refusal("torchvision:resnet50", checkpoint=tmp_path / "resnte.pth")
    assert "there is no checkpoint" in missing
    assert f"Did you mean {tmp_path / 'resnet.pth'}?" in missing
    assert "goes with torchvision:NAME" in refusal(folder_of(tmp_path / "m"), checkpoint=tmp_path / "resnet.pth")
    assert "which model?" in refusal("torchvision:")


def test_a_revision_is_refused_where_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    for text in (folder_of(tmp_path / "m"), tmp_path / "net.onnx", "torchvision:resnet50"):
        assert "--revision goes with a Hugging Face id" in refusal(text, revision="main")


@pytest.mark.parametrize(
    ("architecture", "hints", "said"),
    [
        ("GPT2LMHeadModel", Hints(labels=Path("names.txt")), "the family gpt2 has no use for --labels"),
        ("LlamaForCausalLM", Hints(size=(8, 8), std=(1.0,)), "the family llama has no use for --size and --std"),
        ("BertModel", Hints(mean=(0.5,)), "the family bert has no use for --mean"),
        ("CLIPModel", Hints(labels=Path("names.txt")), "of such options it takes: --tokenizer, --size, --mean, --std"),
        ("ViTForImageClassification", Hints(tokenizer=Path("t.json")), "the family vit has no use for --tokenizer"),
    ],
)
def test_what_the_user_says_and_the_family_cannot_use_is_refused(architecture: str, hints: Hints, said: str) -> None:
    source = Source(kind="huggingface", origin="m", architecture=architecture, hints=hints)
    with pytest.raises(ModelError, match=said):
        find_family(source)


def test_an_architecture_that_nobody_knows_is_met_with_those_that_are_known(tmp_path: Path) -> None:
    source = resolve_source(str(folder_of(tmp_path, {"architectures": ["MambaForCausalLM"]})), fetch=no_fetch)
    with pytest.raises(ModelError, match=r"builds MambaForCausalLM.*millrace models families.*docs/building\.md"):
        find_family(source)


def test_a_name_for_the_store_is_made_of_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "hf:org/My Model!": "my-model-",
        "org/MiniLM-L6_v2": "minilm-l6_v2",
        "torchvision:resnet50": "resnet50",
        "exports/Net.onnx": "net",
        ".": tmp_path.name.lower().replace("[", "-").replace("]", "-"),
    }
    assert {text: suggest_name(text) for text in names} == names
    with pytest.raises(ModelError, match="--name"):
        suggest_name("hf:org/---")


def test_families_are_listed_without_the_frameworks_they_export_from() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'transformers', 'onnxscript'): sys.modules[name] = None\n"
        "from pipeline.factory.families import list_families\n"
        "print(*(family.name for family in list_families()))"
    )
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"bert", "clip", "detr", "gpt2", "llama", "llava", "onnx-file", "resnet", "torchvision"} <= set(listed)
