"""What a user installs: the import, the metadata, the wheel."""

import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest

import classp_jax

ROOT = pathlib.Path(__file__).parents[1]


def test_import_brings_in_jax_and_optax_alone():
    heavy = ["flax", "torch", "tensorflow", "matplotlib", "mlxtend", "tqdm", "chex"]
    code = (
        "import sys, jax, optax; before = set(sys.modules); import classp_jax;"
        f"heavy = {heavy};"
        "print([m for m in heavy if m in sys.modules and m not in before])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_public_names_are_documented_and_all_there_is():
    for module in (classp_jax, classp_jax.baselines, classp_jax.metrics):
        for name in module.__all__:
            assert getattr(module, name).__doc__
        public = {
            name
            for name, value in vars(module).items()
            if str(getattr(value, "__module__", "")).startswith("classp_jax")
            and not name.startswith("_")
        }
        assert public == set(module.__all__) - {"baselines", "metrics"}


def test_the_metadata_name_the_paper_as_the_citation_does():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for file in ("CITATION.cff", "README.md"):
        assert declared["urls"]["Paper"] in (ROOT / file).read_text()


def test_core_dependencies():
    requirements = importlib.metadata.requires("classp_jax")
    core = [r.split(">")[0] for r in requirements if "extra ==" not in r]
    assert sorted(core) == ["jax", "optax"]


def test_no_import_reaches_for_the_network_or_unpickles():
    code = (
        "import importlib, pkgutil, sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto',"
        " 'pickle.find_class', 'urllib.Request'):\n"
        "        print(event, arguments)\n"
        "sys.addaudithook(hook)\n"
        "for name in ('classp_jax', 'examples'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{name}.'):\n"
        "        importlib.import_module(module.name)\n"
        "from examples.datasets import tfds\n"
        "tfds.import_tfds()\n"
        "import orbax.checkpoint\n"
        "print('done')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("folder", ["classp_jax", "examples"])
def test_no_file_is_long(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert path.read_text().count("\n") <= 300, path


def test_what_is_tested_as_lowest_is_what_is_declared():
    pinned = dict(
        line.split("==")
        for line in (ROOT / "tests" / "lowest.txt").read_text().splitlines()
        if "==" in line
    )
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in declared["dependencies"]:
        name, lowest = requirement.split(">=")
        assert pinned[name] == lowest


@pytest.mark.slow
def test_all_extras_resolve_together():
    """But for those that choose an accelerator, gigabytes each."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = ",".join(sorted(set(extras) - {"cuda", "tpu"}))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
    subprocess.run([*command, f"{ROOT}[{names}]"], check=True)


@pytest.mark.slow
def test_wheel_installs_into_an_empty_environment(tmp_path):
    def run(*command):
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "classp_jax/py.typed" in names
    assert {n.split("/")[0].split("-")[0] for n in names} == {"classp_jax"}

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", wheel)
    code = (
        "import sys, jax.numpy as jnp, classp_jax;"
        "o = classp_jax.classp(0.1);"
        "u, s = o.update(jnp.ones(3), o.init(jnp.ones(3)));"
        "print([m for m in ('flax', 'torch', 'tensorflow') if m in sys.modules],"
        " classp_jax.average_grad_sum(s))"
    )
    assert run(python, "-c", code).strip() == "[] 1.0"
