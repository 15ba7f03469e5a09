"""`monkey-coder completion`: the script that a shell sources."""

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_MONKEY_CODER_COMPLETE"

_EPILOG = """\b
Examples:
  bash: monkey-coder completion bash > ~/.local/share/bash-completion/completions/monkey-coder
  zsh:  monkey-coder completion zsh > "${fpath[1]}/_monkey-coder"
  fish: monkey-coder completion fish > ~/.config/fish/completions/monkey-coder.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"no completion for {shell}")
    # The script runs the program with this variable set to get the completions.
    click.echo(completion(ctx.find_root().command, {}, "monkey-coder", _VARIABLE).source())
