"""What Python agents do all day, one line of standard output for each thing done."""

import asyncio
import multiprocessing
import os
import queue
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory

import numpy

RUNTIME = "/agent/runtime"


def said(name, answer):
    print(f"{name}: {answer}", flush=True)


async def echo_on_loopback():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def ask(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"%d\n" % number)
        answer = int(await reader.readline())
        writer.close()
        return answer

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answers = await asyncio.gather(*(ask(number) for number in range(100)))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(6 * 7)", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    server.close()
    return f"{sum(answers)} echoed, child said {output.decode().strip()}"


def square(number):
    return number * number


def pool_of(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return sum(pool.map(square, range(100)))


def fill(name):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:5] = b"hello"
    block.close()


def shared_block():
    block = shared_memory.SharedMemory(create=True, size=4096)
    try:
        child = multiprocessing.Process(target=fill, args=(block.name,))
        child.start()
        child.join()
        return bytes(block.buf[:5]).decode()
    finally:
        block.close()
        block.unlink()


def threads():
    done = queue.Queue()
    crew = [threading.Thread(target=lambda it=it: done.put(square(it))) for it in range(32)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    with ThreadPoolExecutor(8) as pool:
        return sum(done.get() for _ in crew) + sum(pool.map(square, range(32)))


def run(*words, **options):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout.strip()


def tls_on_loopback():
    key, certificate = f"{RUNTIME}/key.pem", f"{RUNTIME}/certificate.pem"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=agent", "-addext", "subjectAltName=DNS:agent", "-keyout", key, "-out", certificate),
    )
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(certificate, key)
    # Asks the kernel to do the encryption, which the floor refuses: OpenSSL goes on without it.
    of_server.options |= ssl.OP_ENABLE_KTLS
    of_client = ssl.create_default_context(cafile=certificate)
    of_client.options |= ssl.OP_ENABLE_KTLS
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with of_server.wrap_socket(listener.accept()[0], server_side=True) as peer:
            peer.sendall(peer.recv(100).upper())

    server = threading.Thread(target=serve)
    server.start()
    with of_client.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="agent") as peer:
        peer.sendall(b"secret")
        answer = f"{peer.version()} {peer.recv(100).decode()}"
    server.join()
    return answer


def sqlite_file():
    path = f"{RUNTIME}/agent.db"
    with sqlite3.connect(path) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table beats (number integer primary key)")

    def insert(first):
        with sqlite3.connect(path, timeout=30) as own:
            own.executemany("insert into beats values (?)", ((first + it,) for it in range(250)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(insert, range(0, 1000, 250)))
    count, total = sqlite3.connect(path).execute("select count(*), sum(number) from beats").fetchone()
    return f"{count} rows, sum {total}"


def matmul():
    size = 1024
    left = numpy.tile(numpy.arange(size, dtype=float), (size, 1))
    product = left @ numpy.ones((size, size))
    right = bool((product == size * (size - 1) / 2).all())
    # OpenBLAS starts no threads on a machine of one processor.
    threaded = len(os.listdir("/proc/self/task")) > 1 or len(os.sched_getaffinity(0)) == 1
    return f"right {right}, threaded {threaded}"


def pip_install():
    wheel, target = f"{RUNTIME}/beat-1.0-py3-none-any.whl", f"{RUNTIME}/site"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("beat.py", "def beat():\n    return 'beat 1.0'\n")
        about = "beat-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: beat\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"beat.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    run(sys.executable, "-m", "pip", "install", "--no-index", "--no-cache-dir", "--target", target, wheel)
    return run(sys.executable, "-c", "import beat; print(beat.beat())", env={"PYTHONPATH": target})


def main():
    said("asyncio", asyncio.run(echo_on_loopback()))
    for method in ("fork", "spawn", "forkserver"):
        said(f"multiprocessing {method}", pool_of(method))
    said("shared memory", shared_block())
    said("threads", threads())
    said("subprocess", run("sh", "-c", "printf '%s\\n' one two | sort -r | tr '\\n' ' '"))
    said("ssl", tls_on_loopback())
    said("sqlite", sqlite_file())
    said("numpy", matmul())
    said("pip", pip_install())


if __name__ == "__main__":
    main()
