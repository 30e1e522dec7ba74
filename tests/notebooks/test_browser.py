"""As a person would: JupyterLab in a browser, a notebook run, a slider moved; text and image beside
it change.

Needs Chromium and playwright (pip install 'mmlib[browser]'); .ci/run has both.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest

from tests.tools import make_outputs

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install 'mmlib[browser]'"
)
CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
READY = """async () => {
    await jupyterapp.restored;
    const context = jupyterapp.shell.currentWidget.context;
    await context.ready;
    await context.sessionContext.ready;
    await jupyterapp.commands.execute('notebook:run-all-cells');
}"""


def up_to_the_widget(path) -> nbformat.NotebookNode | None:
    """The notebook without what comes after its widget; None where it has none."""
    notebook = nbformat.read(path, as_version=4)
    places = [
        i
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and "widgets." in cell.source
    ]
    if not places:
        return None
    notebook.cells = notebook.cells[: places[0] + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


NOTEBOOKS = [
    path
    for path in make_outputs.notebooks()
    if path.parent.name == "notebooks" and up_to_the_widget(path)
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own, over copies of the notebooks: a function of a
    notebook's name.
    """
    root = tmp_path_factory.mktemp("course")
    (root / "notebooks").mkdir()
    (root / "data").symlink_to(make_outputs.ROOT / "data")
    for path in NOTEBOOKS:
        nbformat.write(up_to_the_widget(path), root / "notebooks" / path.name)
    settings = root / "jupyter" / "LAB_SETTINGS" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, home = secrets.token_hex(8), f"http://127.0.0.1:{port}"
    kinds = ("LAB_SETTINGS", "LAB_WORKSPACES", "_CONFIG", "_DATA")
    folders = {f"JUPYTER{kind}_DIR": str(root / "jupyter" / kind.strip("_")) for kind in kinds}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
    ]
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | folders,
    )
    try:
        wait_for(home)
        yield lambda name: f"{home}/lab/tree/notebooks/{name}?token={token}&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_for(home: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{home}/api")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError("JupyterLab did not start")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_slider_moved_in_jupyterlab_changes_text_and_picture(lab, path):
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(180_000)
        page.goto(lab(path.name))
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.evaluate(READY)
        handle = page.locator(".noUi-handle").first
        handle.wait_for(state="attached")
        before = shown(page)
        assert before["text"] and before["image"].startswith("blob:")
        handle.focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        for _ in range(200):
            after = shown(page)
            if after["text"] != before["text"] and after["image"] != before["image"]:
                break
            time.sleep(0.1)
        assert after["text"] != before["text"] and after["image"] != before["image"]
        browser.close()


def shown(page) -> dict[str, str]:
    """The text and the image's address of the panel, as they stand on the page."""
    return {
        "text": page.locator(".widget-html-content").last.inner_text(),
        "image": page.locator("img.widget-image").last.get_attribute("src"),
    }
