"""The promises around the package: one set of versions, a cheap import, a README that stays true."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def requirements() -> list[Requirement]:
    lines = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    return [Requirement(line) for line in lines]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_within_its_bounds():
    pins = {normal(name): version for name, version in PINS.items()}
    for requirement in requirements():
        assert requirement.specifier.contains(Version(pins[normal(requirement.name)])), requirement


def test_every_requirement_has_a_lower_bound():
    for requirement in requirements():
        assert any(s.operator == ">=" for s in requirement.specifier), requirement


def test_constraints_hold_versions_only():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line), line


def test_conda_installs_the_same_things():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    assert pip["pip"] == ["--constraint constraints.txt", "--editable .[test,author]"]
    assert set(PROJECT["optional-dependencies"]) == {"test", "author", "wups"}


def test_the_distribution_does_not_take_another_projects_name():
    assert PROJECT["name"] == "mmlearn-course"
    assert PROJECT["requires-python"] == ">=3.11"


def test_python_and_torch_bounds_are_said_in_the_readme():
    torch = next(r for r in requirements() if r.name == "torch")
    assert str(torch.specifier) == ">=2.11"
    assert "torch ≥ 2.11" in README
    assert "Python ≥ 3.11" in README


HEAVY = (
    "matplotlib",
    "transformers",
    "datasets",
    "accelerate",
    "PIL",
    "IPython",
    "torchvision",
    "tokenizers",
    "pandas",
)


@pytest.mark.parametrize("module", ["mmlearn", "mmlearn.scenes", "mmlearn.data", "mmlearn.nn", "mmlearn.models"])
def test_imports_bring_nothing_heavy(module):
    code = f"import torch, sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {name.split(".")[0] for name in out.split()} & set(HEAVY)


def test_every_public_name_exists():
    import mmlearn

    for name in mmlearn.__all__:
        assert getattr(mmlearn, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mmlearn.nothing


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_readme_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    from mmlearn.cli import make_parser

    known = make_parser()._subparsers._group_actions[0].choices
    for command in set(re.findall(r"\bmmlearn ([a-z]+)\b", "\n".join(re.findall(r"`[^`]+`|```.*?```", README, re.S)))):
        assert command in known, command


def test_readme_lists_every_chapter():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in README, path.name


def test_nothing_committed_names_a_machine_or_holds_a_licensed_picture():
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    assert not [f for f in files if f.endswith((".parquet", ".pkl", ".pt", ".bin", ".jpg", ".jpeg"))]
    for name in files:
        path = ROOT / name
        own = r"/(?:root|work)/\w+" if name.startswith("tests/") else r"/(?:home|root|work|Users)/\w+"
        if path.suffix in (".py", ".md", ".ipynb", ".txt", ".toml", ".yml", ".json", ".cff"):
            found = re.search(own, path.read_text(encoding="utf-8"))
            assert not found, f"{name} names {found.group()}"
