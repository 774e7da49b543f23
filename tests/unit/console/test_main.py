from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from console.lazy import LazyGroup
from console.main import COMMANDS, cli
from pipeline.errors import BrokerError


@click.command()
def failing() -> None:
    raise BrokerError("no broker: start one")


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    code = (
        "import sys; from console.main import cli; cli.main(['--help'], standalone_mode=False); "
        "print([m for m in ('confluent_kafka', 'rich', 'onnxruntime', 'PIL', 'faust') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"Usage: cli {name}")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("broker", "models")])
def test_every_command_takes_json(name: str) -> None:
    assert "--json" in CliRunner().invoke(cli, [name, "--help"]).output


def test_an_error_of_ours_is_one_message_and_exit_1() -> None:
    class Failing(LazyGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            return failing

    group = Failing("test", lazy={"failing": ("", "Fails.")})
    done = CliRunner().invoke(group, ["failing"])
    assert (done.exit_code, done.stderr, done.stdout) == (1, "Error: no broker: start one\n", "")


def test_wrong_usage_is_exit_2() -> None:
    done = subprocess.run([sys.executable, "-m", "console.main", "send", "sounds", "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'sounds' is not one of 'prompts', 'images'" in done.stderr


def test_an_unknown_command_is_exit_2() -> None:
    assert CliRunner().invoke(cli, ["dance"]).exit_code == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(("wroker",), "worker"), (("models", "optimise"), "optimize"), (("broker", "strat"), "start")],
)
def test_a_misspelt_command_is_told_with_the_one_that_may_be_meant(typed: tuple[str, ...], meant: str) -> None:
    done = CliRunner().invoke(cli, typed)
    assert done.exit_code == 2
    assert done.stderr.endswith(f"No such command '{typed[-1]}'. Did you mean '{meant}'?\n")
