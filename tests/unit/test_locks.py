"""The locks of the sets of packages: for production, for the demo and for development."""

import re
import tomllib

from tests.support import ROOT

LOCKS = ("requirements.lock", "requirements-demo.lock", "requirements-dev.lock")
"""Each set contains the one before."""


def pins(name: str) -> dict[str, str]:
    """The packages of a lock, with their version, markers and hashes."""
    blocks = re.findall(r"^([\w.-]+)(==.*(?:\n    --hash=.*)+)", (ROOT / name).read_text(), re.M)
    return dict(blocks)


def normalized(requirement: str) -> str:
    """The name of the package of a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_every_lock_contains_the_smaller_ones_with_the_same_versions_and_hashes() -> None:
    production, demo, development = map(pins, LOCKS)
    assert len(production) > 20
    for small, large in ((production, demo), (demo, development)):
        assert small.keys() < large.keys()
        for package, pin in small.items():
            assert sorted(re.findall("sha256:[0-9a-f]+", pin)) == sorted(re.findall("sha256:[0-9a-f]+", large[package]))
            assert re.match(r"==[^ \\]+", pin)[0] == re.match(r"==[^ \\]+", large[package])[0]


def test_every_lock_contains_its_requirements_and_no_others() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    production, demo, development = map(pins, LOCKS)
    wanted = {set_: {normalized(each) for each in extras[set_]} for set_ in ("demo", "dev")}
    assert {normalized(each) for each in project["dependencies"]} <= production.keys()
    assert wanted["demo"] <= demo.keys() - production.keys()
    assert wanted["dev"] <= development.keys() - demo.keys()
