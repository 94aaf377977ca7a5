"""Shells complete commands, flags and values."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from selfcluster.cli import _COMMANDS
from selfcluster.errors import ConfigError
from selfcluster.exporters.export import FORMATS
from selfcluster.settings.completion import EXPORT_FORMATS, SHELLS, script

COMMANDS = {name: kind for name, (kind, _) in _COMMANDS.items()}
COMPLETE = {
    "bash": 'source /dev/stdin; COMP_WORDS=(selfcluster {} ""); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _shtab_selfcluster; echo "${{COMPREPLY[*]}}"',
    "fish": 'source -; complete -C "selfcluster {} "',
}


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_hold_commands_flags_and_values(shell: str) -> None:
    text = script(shell, COMMANDS)
    assert all(word in text for word in [*COMMANDS, "overwrite", "top-lr", "adamw", "swav-imagenet", "glyph", "label-free"])


@pytest.mark.parametrize("shell", COMPLETE)
def test_a_shell_completes(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not here")
    expected = {
        "": [*COMMANDS],
        "train photos --optimizer": ["lars", "sgd", "adamw"],
        "export runs/x --format": [*EXPORT_FORMATS],
        "cluster runs/x --k": ["auto"],
    }
    for words, values in expected.items():
        done = subprocess.run(
            [shell, "-c", COMPLETE[shell].format(words)], input=script(shell, COMMANDS), capture_output=True, text=True, check=True
        )
        found = done.stdout.split() if shell == "bash" else [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert sorted(set(found)) == sorted(values), words


def test_another_shell_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown shell 'powershell'; choose from bash, fish, zsh"):
        script("powershell", COMMANDS)


def test_formats_are_those_of_export() -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS


def test_the_command_prints_the_script_without_torch() -> None:
    code = "import sys; from selfcluster.cli import main; main(['completion', 'bash']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("complete -o bashdefault -F _shtab_selfcluster selfcluster")
