"""The commands: `mlapi-admin` and `mlapi-scheduler`."""

from collections.abc import Mapping
from configparser import Error

from pyramid.paster import get_appsettings, setup_logging

from mlapi.settings import Settings, SettingsError


def settings_of(ini: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of an ini file and set up its logging. Raises `SettingsError`."""
    try:
        setup_logging(ini)
        settings = get_appsettings(ini)
    except (OSError, LookupError, Error) as error:
        raise SettingsError(f"{ini} cannot be used: {error}") from None
    return Settings.read(settings, environ)
