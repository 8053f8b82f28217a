#!/usr/bin/python3
"""A small agent: reads its configuration, works in runtime/, writes its log, stops when told to."""

import json
import os
import signal
import time

HOME = os.path.dirname(os.path.abspath(__file__))


def read_config(path):
    """Reads `key: value` lines, which is all the configuration there is."""
    config = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            line = line.split("#", 1)[0].strip()
            if ":" in line:
                key, value = line.split(":", 1)
                config[key.strip()] = value.strip()
    return config


def main():
    config = read_config(os.path.join(HOME, "config.yaml"))
    stopping = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    state = os.path.join(HOME, "runtime", "state.json")
    beats = 0
    while not stopping:
        beats += 1
        with open(state + ".new", "w", encoding="utf-8") as out:
            json.dump({"name": config["name"], "beats": beats, "time": time.time()}, out)
        os.replace(state + ".new", state)
        line = f"{config['name']}: beat {beats} as uid {os.getuid()}"
        with open(os.path.join(HOME, "logs", "agent.log"), "a", encoding="utf-8") as log:
            print(line, file=log)
        print(line, flush=True)
        time.sleep(float(config["interval_seconds"]))
    print(f"{config['name']}: stopped after {beats} beats", flush=True)


if __name__ == "__main__":
    main()
