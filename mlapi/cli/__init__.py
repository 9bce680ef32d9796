"""The commands: `mlapi-admin` and `mlapi-scheduler`."""

import warnings
from collections.abc import Mapping
from configparser import Error

# Pyramid 2.1 warns at import; operators cannot do anything about it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from pyramid.paster import get_appsettings, setup_logging  # noqa: E402

from mlapi.settings import Settings, SettingsError  # noqa: E402


def settings_of(ini: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of an ini file and set up its logging. Raises `SettingsError`."""
    try:
        setup_logging(ini)
        settings = get_appsettings(ini)
    except (OSError, LookupError, Error) as error:
        raise SettingsError(f"{ini} cannot be used: {error}") from None
    return Settings.read(settings, environ)
