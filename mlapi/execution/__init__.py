"""How jobs run: the scheduler claims them, an executor starts runners, a runner runs one attempt.

Only the scheduler touches the database. An executor only starts, stops and watches. A runner knows nothing but
a URL and a token that is good for its attempt, and speaks only REST. This package imports nothing heavy, since
runners must start in milliseconds.
"""
