"""Downloads, from a server of our own: no test touches the network."""

import http.server
import inspect
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from archive_files import idx, tar, write
from test_importing import binary, gz, idx_files, official, part

from kerascnn import UsageError, data
from kerascnn.data import downloading

WAYS_OUT = ("--data sample", "--data-dir", "kerascnn data import cifar10")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of files in a folder; returns the folder and its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture
def silent_port():
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def proxy(monkeypatch):
    """Send every request to a port of this machine."""

    def to(port):
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

    return to


@pytest.mark.parametrize(
    "fetch",
    [
        lambda folder: data.get("cifar10", folder),
        lambda folder: data.load("cifar10", "full", folder),
    ],
    ids=["get", "load full"],
)
def test_an_unreachable_host_is_one_line_within_a_minute(proxy, tmp_path, fetch):
    proxy(closed_port())
    start = time.monotonic()
    with pytest.raises(UsageError, match="could not be downloaded") as caught:
        fetch(tmp_path / "data")
    assert time.monotonic() - start < 60
    message = str(caught.value)
    assert "\n" not in message
    for words in ("Connection refused", "cs.toronto.edu", *WAYS_OUT):
        assert words in message
    # Neither a half set, nor pieces of a download.
    assert not list((tmp_path / "data").rglob("*.tmp.*"))
    assert not (tmp_path / "data" / "cifar10").exists()


def test_a_silent_host_is_given_up(proxy, silent_port, tmp_path, monkeypatch):
    proxy(silent_port)
    monkeypatch.setattr(downloading, "_TIMEOUTS", (0.2, 0.2))
    with pytest.raises(UsageError, match="timed out"):
        downloading.prepare("cifar10", str(tmp_path))


def test_a_silent_host_is_given_up_within_a_minute():
    assert downloading._PATIENCE <= 45  # and some seconds to start and to end
    connect, _ = downloading._TIMEOUTS
    # urllib3 waits 0.2 * 2**n seconds before try n: refusals come before that.
    pauses = sum(0.2 * 2**n for n in range(downloading._RETRIES + 1))
    assert (downloading._RETRIES + 1) * connect + pauses < downloading._PATIENCE


def test_patience_ends_what_no_timeout_does(proxy, silent_port, tmp_path):
    """As with a name server that does not answer."""
    proxy(silent_port)
    code = """
import sys
from kerascnn.data import downloading
downloading._TIMEOUTS, downloading._PATIENCE = (None, None), 0.5
sys.argv[1:] = ["cifar10", sys.argv[1]]
downloading.main()
"""
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 2
    assert "no answer" in child.stdout
    assert child.stderr == ""


def serve_small_sets(monkeypatch, server):
    """Let tfds' addresses point at small archives on the server, without checksums."""
    import tensorflow_datasets as tfds

    folder, address = server
    cifar, fashion = part("cifar10"), part("fashion_mnist")
    (folder / "cifar-10-binary.tar.gz").write_bytes(tar(binary(cifar)))
    write(folder, gz(idx_files(fashion)))
    url = f"{address}cifar-10-binary.tar.gz"
    monkeypatch.setattr(tfds.builder_cls("cifar10"), "url_infos", {url: None})
    monkeypatch.setattr(tfds.builder_cls("fashion_mnist"), "URL", address)
    monkeypatch.setattr(
        "tensorflow_datasets.core.download.checksums.get_all_url_infos", dict
    )
    true = {
        "cifar10": official("cifar10", cifar),
        "fashion_mnist": official("fashion_mnist", fashion),
    }
    for name, each in true.items():
        monkeypatch.setitem(downloading.OFFICIAL, name, each)
    return true


class NoTensorFlow:
    """Finds no TensorFlow, as where it is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_download_and_prepare(name, monkeypatch, server, tmp_path, capfd):
    serve_small_sets(monkeypatch, server)
    monkeypatch.setattr(sys, "meta_path", [NoTensorFlow(), *sys.meta_path])
    downloading.prepare(name, str(tmp_path / "data"))
    loaded = data.load(name, "full", tmp_path / "data")
    assert (len(loaded.train), len(loaded.test)) == (50, 20)
    assert not loaded.sample
    # No bar and no notes where there is no terminal.
    assert capfd.readouterr() == ("", "")


def test_a_download_that_is_not_the_set(monkeypatch, server, tmp_path):
    true = serve_small_sets(monkeypatch, server)
    folder, _ = server
    changed = part("fashion_mnist")
    images, labels = changed["train"]
    changed["train"] = (images, labels[::-1])
    write(folder, gz(idx_files(changed)))
    assert true["fashion_mnist"].counts["train"] == 50
    with pytest.raises(UsageError, match="train images or labels are not those"):
        downloading.prepare("fashion_mnist", str(tmp_path / "data"))
    assert data.prepared("fashion_mnist", tmp_path / "data") is None


def test_what_has_no_checksum_is_not_downloaded(monkeypatch, server, tmp_path):
    import tensorflow_datasets as tfds

    folder, address = server
    write(folder, gz(idx_files(part("fashion_mnist"))))  # under the names of MNIST's
    monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", address, raising=False)
    monkeypatch.setattr(tfds.builder_cls("mnist"), "url_infos", {})
    with pytest.raises(UsageError, match=f"no checksum of {address}.*--data-dir"):
        downloading.prepare("mnist", str(tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("*ubyte*"))
    assert data.prepared("mnist", tmp_path / "data") is None


def test_a_download_with_another_checksum_is_refused(monkeypatch, server, tmp_path):
    import tensorflow_datasets as tfds

    folder, address = server
    files = gz(idx_files(part("fashion_mnist")))
    write(folder, files)
    other = tfds.download.checksums.UrlInfo(size=5, checksum="0" * 64, filename="x")
    monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", address, raising=False)
    infos = {f"{address}{name}": other for name in files}
    monkeypatch.setattr(tfds.builder_cls("mnist"), "url_infos", infos)
    with pytest.raises(UsageError, match="checksum") as caught:
        downloading.prepare("mnist", str(tmp_path / "data"))
    assert "\n" not in str(caught.value)
    assert data.prepared("mnist", tmp_path / "data") is None


def test_a_page_instead_of_the_set(monkeypatch, server, tmp_path):
    serve_small_sets(monkeypatch, server)
    folder, _ = server
    (folder / "cifar-10-binary.tar.gz").write_text("<html>please log in</html>")
    with pytest.raises(UsageError, match="cannot be read as CIFAR-10"):
        downloading.prepare("cifar10", str(tmp_path / "data"))
    write(folder, {"train-images-idx3-ubyte.gz": idx(part("fashion_mnist")["test"][1])})
    with pytest.raises(UsageError, match="fashion_mnist"):
        downloading.prepare("fashion_mnist", str(tmp_path / "data"))


def test_a_host_that_has_moved_the_file(monkeypatch, server, tmp_path):
    serve_small_sets(monkeypatch, server)
    folder, _ = server
    (folder / "cifar-10-binary.tar.gz").unlink()
    with pytest.raises(UsageError, match=r"could not be downloaded.*404"):
        downloading.prepare("cifar10", str(tmp_path / "data"))


def test_settings_of_the_network_are_put_back(monkeypatch, server, tmp_path):
    from requests.adapters import HTTPAdapter
    from tensorflow_datasets.core.download import downloader

    before = HTTPAdapter.send, downloader.MAX_RETRIES
    serve_small_sets(monkeypatch, server)
    downloading.prepare("cifar10", str(tmp_path / "data"))
    assert (HTTPAdapter.send, downloader.MAX_RETRIES) == before


def test_a_set_that_tfds_prepares_with_tensorflow(tmp_path):
    """Here `mnist`, whose files tfds reads with TensorFlow."""
    code = f"""
import sys
{inspect.getsource(NoTensorFlow)}
sys.meta_path.insert(0, NoTensorFlow())
from tensorflow_datasets.core.download import DownloadManager
from kerascnn.data import downloading

DownloadManager.download_and_extract = (
    lambda self, urls: {{key: {__file__!r} for key in urls}})
sys.argv[1:] = ["mnist", sys.argv[1]]
downloading.main()
"""
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    assert "needs tensorflow to prepare mnist: pip install tensorflow" in child.stdout
    assert child.stderr == ""


def test_a_set_to_be_fetched_by_hand(tmp_path):
    with pytest.raises(UsageError, match=r"imagenet2012.*image-net\.org") as caught:
        downloading.prepare("imagenet2012", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_get_does_nothing_for_what_is_prepared(tiny, tmp_path, proxy):
    folder = tiny(name="cifar10")
    proxy(closed_port())
    assert data.get("cifar10", tmp_path / "data") == folder


def test_get_of_an_unknown_set_starts_nothing(monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(UsageError, match="did you mean cifar10"):
        data.get("cifar1O")


def test_a_process_that_dies_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.executable", "/bin/false")
    if not Path("/bin/false").exists():
        pytest.skip("there is no /bin/false")
    with pytest.raises(UsageError, match="exit code 1"):
        data.get("cifar10", tmp_path)
