"""Every producing example of docs/wire.md is run in a shell; a stand-in for kcat catches what it would send."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from schemas.bodies import ImageBody, PromptBody
from schemas.dead_letters import DeadLetterHeaders
from schemas.errors import DecodeError, InferenceError, ModelNotFoundError, PrepareError, ValidationError
from schemas.generate import documents
from schemas.messages import InferenceRequest, Outcome, Output, Task
from schemas.registry import ConfluentRegistry
from tests.unit.schemas.samples import PNG, decode_image, decode_prompt

PAGE = (Path(__file__).parents[3] / "docs" / "wire.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "kcat -P" in block]

ERRORS = (DecodeError, ValidationError, PrepareError, ModelNotFoundError, InferenceError)

# As kcat does it: one message a line of stdin, or one a file.
STAND_IN = f"""#!{sys.executable}
import getopt, json, sys
options, files = getopt.getopt(sys.argv[1:], "Pb:t:k:H:")
topic = dict(options)["-t"]
headers = [value.split("=", 1) for name, value in options if name == "-H"]
values = [open(file, "rb").read() for file in files] if files else sys.stdin.buffer.read().splitlines()
print(json.dumps([[topic, headers, value.hex()] for value in values]))
"""


def run_example(example: str, folder: Path) -> list[tuple[str, dict[str, bytes], bytes]]:
    """(topic, headers, value) of each record that the example sends."""
    (folder / "cat.png").write_bytes(PNG)
    (folder / "kcat").write_text(STAND_IN)
    (folder / "kcat").chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "BROKER": "nowhere:9092"}
    done = subprocess.run(
        ["bash", "-ec", example], cwd=folder, env=environ, capture_output=True, check=True, timeout=60
    )
    sent: list[Any] = msgspec.json.decode(done.stdout)
    return [
        (topic, {name: text.encode() for name, text in headers}, bytes.fromhex(value)) for topic, headers, value in sent
    ]


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_one_record_that_decodes(example: str, tmp_path: Path) -> None:
    ((topic, headers, value),) = run_example(example, tmp_path)
    decode = {"inference.prompts": decode_prompt, "inference.images": decode_image}[topic]
    request: InferenceRequest = decode(value, headers)
    assert any(text in str(request.input) for text in ("Where is my order?", "{{greeting}}", "cat.png", repr(PNG)))


def test_the_page_has_an_example_for_every_encoding() -> None:
    assert len(EXAMPLES) >= 10


def test_the_registry_example_sends_a_prompt_that_decodes() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    registry = ConfluentRegistry("mock://page")
    sent: list[bytes] = []
    code = code.partition("producer =")[0]
    code = code.replace('SchemaRegistryClient({"url": "http://127.0.0.1:8081"})', "client")
    exec(compile(code + "sent.append(value)", "wire.md", "exec"), {"client": registry.client, "sent": sent})  # noqa: S102
    assert "Where is my order?" in str(decode_prompt(sent[0], {}, registry).input)


def test_the_page_shows_an_output_of_every_kind() -> None:
    outputs: list[Output] = [
        msgspec.json.decode(text, type=Output) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    ]
    assert {type(output) for output in outputs} == set(get_args(Output))


@pytest.mark.parametrize("name", [*get_args(Task), *PromptBody.__struct_fields__, *ImageBody.__struct_fields__])
def test_the_page_names_every_task_and_every_field_of_a_request(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", [*Outcome.__struct_fields__, *(kind.code for kind in ERRORS)])
def test_the_page_names_every_field_of_an_outcome_and_every_error_code(name: str) -> None:
    assert f"| `{name}` |" in PAGE


def test_the_page_names_every_header_of_a_dead_letter_and_links_every_schema() -> None:
    for field in msgspec.structs.fields(DeadLetterHeaders):
        assert f"`{field.encode_name}`" in PAGE or f"`.{field.name}`" in PAGE, field.encode_name
    for path in ("outcome", "token", "dead-letter-headers"):
        assert f"(../schemas/json/{path}.schema.json)" in PAGE
        assert f"json/{path}.schema.json" in documents()
