"""The execution of jobs: the scheduler claims them, an executor starts runners, a runner runs one attempt.

Only the scheduler uses the database. An executor only starts, stops and watches runners. A runner knows the URL of its
attempt and a token for it, and uses only the REST API. Runners must start in milliseconds, so everything except the
scheduler runs on the standard library alone, without slow imports.

- `runner`: the program; the order of the phases of an attempt.
- `fetch`, `watch`, `deliver`: the phases: downloading, running the function, uploading and reporting.
- `client`, `lease`, `heartbeat`: the connection to the attempt, and the lease on it.
- `workspace`, `process`, `log`, `outputs`: the folder, the process, the log and the outputs of a function.
- `contract`: the types of the documents that runner and server exchange.
"""
