"""What commands share: options, settings out of the environment, and one line for what is wrong."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from service.settings import Settings

DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database and blobs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_settings(**given: Any) -> "Settings":
    """Read the environment; what was given on the command line wins. Ends the process for a wrong value."""
    from pydantic import ValidationError  # noqa: PLC0415 - `--help` does without, here and below
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from service.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for each in error.errors():
            name = "_".join(str(part) for part in each["loc"]).upper()
            ours = each["msg"].removeprefix("Value error, ")  # one of ours says what it wants to repeat
            said = ours if each["type"] == "value_error" else f"{each['msg']}, not {each['input']!r}"
            sys.stderr.write(f"POLYHEAD_{name}: {said}\n")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
    sys.exit(2)


def fail(message: str, *, code: int) -> NoReturn:
    sys.stderr.write(f"polyhead: {message}\n")
    sys.exit(code)
