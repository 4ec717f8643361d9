"""A client of mirnet-edge serve: python service_client.py http://127.0.0.1:8091 IN.jpg OUT.png."""

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

address, source, target = sys.argv[1:]
request = urllib.request.Request(f"{address}/restore", Path(source).read_bytes())
request.add_header("Accept", "image/png")
while True:
    try:
        with urllib.request.urlopen(request) as answer:
            Path(target).write_bytes(answer.read())
            print(answer.status, answer.headers["Noise-Level"], answer.headers["Server-Timing"])
            break
    except urllib.error.HTTPError as error:
        if error.code != 503:
            sys.exit(f"{error.code}: {error.read().decode()}")
        time.sleep(int(error.headers["Retry-After"]))
