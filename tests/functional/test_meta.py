"""The entry point of the API links to all collections, without authentication."""


def test_every_link_of_the_entry_point_works(nobody, ada):
    entrance = nobody("GET", "/api/v1", status=200).json
    assert entrance.pop("service") == "mlapi"
    assert entrance.pop("version")
    assert {"token", "users", "modules", "files", "pipelines", "runs", "jobs"} == entrance.keys()
    for name, url in entrance.items():
        assert nobody("GET", url).status_int == (405 if name == "token" else 401)
        assert ada("GET", url).status_int == (405 if name == "token" else 200)
