"""The commands: `mlapi-admin` and `mlapi-scheduler`."""

from collections.abc import Mapping
from configparser import Error

from pyramid.paster import get_appsettings, setup_logging

from mlapi.revision import prepare
from mlapi.settings import Settings, SettingsError


def settings_of(ini: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of an ini file and set up its logging. Raises `SettingsError`."""
    try:
        setup_logging(ini)
        settings = get_appsettings(ini)
    except FileNotFoundError:
        raise SettingsError(
            f"{ini} cannot be used: not found. To create an ini file, run: mlapi-admin init ."
        ) from None
    except (OSError, LookupError, ImportError, ValueError, Error) as error:
        raise SettingsError(f"{ini} cannot be used: {error}") from None
    return Settings.read(settings, environ)


def prepared(ini: str, *, migrate: bool = False) -> Settings:
    """The settings of an ini file whose database is at the newest revision. Raises `SettingsError`."""
    settings = settings_of(ini)
    prepare(settings, ini, migrate=migrate or settings.migrate)
    return settings
