"""A module that waits until it is stopped."""

import time

time.sleep(600)
