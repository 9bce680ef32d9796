"""The commands: `mlapi-admin` and `mlapi-scheduler`."""

import warnings
from collections.abc import Mapping
from configparser import Error

# Pyramid 2.1 says so at each import, to people who can do nothing about it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from pyramid.paster import get_appsettings, setup_logging  # noqa: E402

from mlapi.settings import Settings, SettingsError  # noqa: E402


def settings_of(ini: str, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of an ini file, with its logging set up; raises `SettingsError` for what is unusable."""
    try:
        setup_logging(ini)
        told = get_appsettings(ini)
    except (OSError, LookupError, Error) as error:
        raise SettingsError(f"{ini} cannot be used: {error}") from None
    return Settings.read(told, environ)
