"""How fast the command line starts: what answers without a registry imports no torch, which alone takes seconds."""

import subprocess
import sys
import textwrap

from .test_mistakes import USAGE


def test_help_of_every_command_and_wrong_command_lines_need_not_even_torch():
    code = f"""
    import sys
    from typer.testing import CliRunner
    from tokensieve.cli import app
    from tokensieve.cli.app import COMMANDS

    heavy = {{"torch", "numpy", "scipy", "pyarrow", "matplotlib", "PIL", "transformers", "timm"}}
    for command, code in (
        *(((name, "--help"), 0) for name in COMMANDS),
        *(((name, "--nothing"), 2) for name in COMMANDS),
        *((command, 2) for command, _ in {USAGE!r}),
        (("bridges",), 0),
        (("compare", "s.yaml", "--out", "x", "--in-process", "--workers", "2"), 2),
        (("show", "gsp", "--image", "x.png", "--out", ""), 2),
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == code, (command, result.output)
        assert not heavy & set(sys.modules), (command, heavy & set(sys.modules))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
