"""Module archives: unpacking, canonical packing, manifests, and the intake of new module versions.

- `limits`: the limits of an archive, and the error for archives that break a rule.
- `readers`: readers of .tar, .tar.gz and .zip.
- `canonical`: `unpack` an archive into a folder, `pack` a folder into its canonical tar.
- `plain_yaml`, `manifest_schemas` and `manifests`: the manifest at the root of a module.
- `intake`: storing the content of a module.

`limits`, `readers` and `canonical` are part of the job runner, which runs on the standard library alone. For that
reason this file imports nothing.
"""
