"""The commands: `mlapi-admin` and `mlapi-scheduler`."""

from collections.abc import Mapping

from pyramid.paster import get_appsettings, setup_logging

from mlapi.settings import Settings


def settings_of(ini: str, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of an ini file, with its logging set up."""
    setup_logging(ini)
    return Settings.read(get_appsettings(ini), environ)
