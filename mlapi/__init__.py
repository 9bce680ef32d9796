"""mlapi: a self-hosted REST service for machine-learning security teams."""

__version__ = "0.1.0"


def main(global_config: dict[str, str], **settings: str) -> object:
    """Create the WSGI application; called by `pserve` and `pshell` with the settings of the ini file."""
    # The runner imports this package and must start in milliseconds, so Pyramid is imported here.
    from mlapi.application import start_app

    return start_app(settings, global_config["__file__"])
