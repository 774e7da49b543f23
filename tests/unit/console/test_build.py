"""`millrace models build`, as a user runs it; what is built then serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.engine import Engine
from pipeline.factory.graph import GraphWriter
from pipeline.models.store import find_model
from pipeline.settings import load_settings
from schemas.messages import ClassificationOutput, Outcome, TextOutput
from tests.unit.console.test_models import run, run_json
from tests.unit.pipeline.factory.families.decoders import save_model, save_tokenizer
from tests.unit.pipeline.helpers import image_request, text_request
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MILLRACE_RUNTIME__PROVIDER", "cpu")
    return tmp_path / "store"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Tells whether an image is bright: the mean against one half."""
    graph = GraphWriter("bright")
    mean = graph.node("GlobalAveragePool", [graph.input("image", "float32", ["N", 1, 8, 8])])
    signs = graph.constant("signs", np.array([[-9.0, 9.0]], np.float32))
    graph.node("MatMul", [graph.node("Flatten", [mean]), signs], outputs=["scores"])
    graph.output("scores", "float32", ["N", 2])
    onnx.save(graph.model("bright or dark"), tmp_path / "Bright Net.onnx")
    (tmp_path / "names.txt").write_text("dark\nbright\n")
    return tmp_path / "Bright Net.onnx"


async def ask(name: str, request: object) -> Outcome:
    settings = load_settings()
    engine = Engine(settings, [find_model(name, settings)])
    await engine.start()
    try:
        return await engine.submit(request)  # type: ignore[arg-type]
    finally:
        await engine.close()


async def test_an_onnx_file_is_built_named_and_serves(classifier: Path, store: Path) -> None:
    options = ("--labels", str(classifier.parent / "names.txt"), "--mean", "0.5", "--std", "0.5")
    status, out, _ = run("build", str(classifier), *options)
    assert status == 0
    assert "bright-net: building with the family onnx-file" in out
    assert "bright-net@1 is built: image-classification" in out
    for shade, label in ((250, "bright"), (5, "dark")):
        outcome = await ask("bright-net", image_request(shade=shade))
        assert isinstance(outcome.output, ClassificationOutput)
        assert outcome.output.labels[0].label == label

    again = run_json("build", str(classifier), *options)
    assert (again["name"], again["version"], again["promoted"]) == ("bright-net", "2", False)
    assert "millrace models promote bright-net 3" in run("build", str(classifier), *options)[1]


async def test_a_hugging_face_folder_is_built_and_writes_text(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=300, bos_token_id=256, eos_token_id=257
    )
    folder = save_model(GPT2LMHeadModel(config), tmp_path / "tiny-gpt2")
    built = run_json("build", str(folder), "--name", "writer", "--version", "0.1")
    assert (built["name"], built["version"], built["promoted"], built["task"]) == (
        "writer",
        "0.1",
        True,
        "text-generation",
    )
    outcome = await ask("writer", text_request("hello", max_tokens=4))
    assert isinstance(outcome.output, TextOutput)
    assert outcome.usage is not None
    assert outcome.usage.completion_tokens > 0


def test_a_chat_template_that_takes_no_chat_stops_the_build_and_one_that_takes_few_is_warned_of(
    tmp_path: Path, store: Path
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=300, eos_token_id=257)
    folder = save_model(GPT2LMHeadModel(config), tmp_path / "tiny-gpt2")
    template = folder / "chat_template.jinja"
    template.write_text("{{ strftime_now('%Y') }}{{ messages[0].content }}")
    status, _, err = run("build", str(folder), "--name", "writer")
    assert (status, list(store.glob("writer/*"))) == (1, [])
    assert "model writer@1: its chat template takes no chat: 'strftime_now' is undefined" in err

    template.write_text("{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}")
    status, _, err = run("build", str(folder), "--name", "writer")
    assert (status, err.startswith("writer@1: its chat template takes no chat of several turns: one. ")) == (0, True)


def test_what_cannot_be_built_leaves_nothing_and_status_1(tmp_path: Path, store: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    (tmp_path / "model.safetensors").touch()
    status, _, error = run("build", str(tmp_path), "--name", "m")
    assert status == 1
    assert "no family of Millrace builds MambaForCausalLM" in error
    assert run("build", str(tmp_path / "nowhere"))[0] == 1
    assert not store.exists()


@pytest.mark.parametrize(
    "option",
    [("--size", "224x"), ("--mean", "0.5,x"), ("--std", "nan"), ("--task", "singing"), ("--labels", "nowhere")],
)
def test_an_option_that_is_wrong_stops_the_command_before_anything_is_read(
    classifier: Path, store: Path, option: tuple[str, str]
) -> None:
    status, _, error = run("build", str(classifier), *option)
    assert status == 1
    assert f"Invalid value for '{option[0]}'" in error
    assert not store.exists()


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A text encoder whose Loop would take years."""
    value, whole = helper.make_tensor_value_info, TensorProto.INT64
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["sum", "sum"], ["more"])],
        "body",
        [value("turn", whole, []), value("on", TensorProto.BOOL, []), value("sum", TensorProto.FLOAT, ["N", 1])],
        [value("still", TensorProto.BOOL, []), value("more", TensorProto.FLOAT, ["N", 1])],
    )
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["both"]),
        helper.make_node("Cast", ["both"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axes"], ["start"], keepdims=1),
        helper.make_node("Loop", ["turns", "yes", "start"], ["embedding"], body=body),
    ]
    constants = {"axes": np.array([1]), "turns": np.array(10**15), "yes": np.array(True)}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    inputs = [value(name, whole, ["N", "S"]) for name in ("input_ids", "attention_mask")]
    graph = helper.make_graph(nodes, "endless", inputs, [value("embedding", TensorProto.FLOAT, ["N", 1])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "endless.onnx")
    save_tokenizer(tmp_path)
    return tmp_path / "endless.onnx"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_build_of_a_graph_that_does_not_end(endless: Path, store: Path, number: int) -> None:
    command = [sys.executable, "-m", "console.main", "models", "build", str(endless), "--name", "endless"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as building:
        _wait_until_a_child_runs(building)
        os.killpg(building.pid, number)  # as a terminal does
        error = building.communicate(timeout=60)[1]
    assert building.returncode == 1
    assert error.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in error
    assert {path.suffix for path in store.iterdir()} == {".lock"}


def test_a_kill_ends_the_graph_that_a_build_was_trying_too(endless: Path) -> None:
    command = [sys.executable, "-m", "console.main", "models", "build", str(endless), "--name", "endless"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as building:
        _wait_until_a_child_runs(building)
        building.kill()
        building.communicate(timeout=60)  # until nobody has its standard error any more


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    """Whether the process has spent more time than it takes to start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) > 3 * os.sysconf("SC_CLK_TCK")


def _wait_until_a_child_runs(building: subprocess.Popen[str]) -> None:
    wait_until(lambda: any(map(_runs, _children(building.pid))), "a child tries the graph", timeout_s=120, poll_s=0.1)
