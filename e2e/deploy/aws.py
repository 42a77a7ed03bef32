"""Runs AWS's CLI, version 1, for many commands: loading it takes longer than most of them. It reads a JSON list of
arguments a line, and answers each with a line that has what the CLI made of it."""

import contextlib
import io
import json
import sys
import time
import types

import awscli.clidriver
import botocore.waiter

# The CLI looks every 30 s whether a stack is done, which is right for AWS; MiniStack takes a second.
botocore.waiter.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.2)))

for line in sys.stdin:
    output, problems = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(problems):
        try:
            status = awscli.clidriver.create_clidriver().main(json.loads(line))
        except SystemExit as end:
            status = end.code
    print(json.dumps({"status": status, "output": output.getvalue(), "problems": problems.getvalue()}), flush=True)
