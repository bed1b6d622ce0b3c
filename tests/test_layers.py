"""The house: each room imports only from rooms below it."""

import ast
import subprocess
import sys
from pathlib import Path

import ensemble_kit

PACKAGE = Path(ensemble_kit.__file__).parent
#: From the ground up; names of one line may not import each other.
FLOORS = [
    ["exceptions"],
    ["bars", "sessions", "targets"],
    ["atr", "checkpoints", "fingerprint", "resampling"],
    ["datasets"],
    ["labels"],
    ["features"],
    ["waves"],
    ["validation"],
    ["metrics"],
    ["estimators"],
    ["calibration"],
    ["ensemble"],
    ["streams"],
    ["sizing"],
    ["interop"],
    ["reports"],
    ["tracking"],
    ["tuning"],
    ["experiments"],
    ["live"],
    ["cli"],
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
#: Rooms that know arrays and frames, never a network or a run.
PLAIN = [
    "bars",
    "sessions",
    "targets",
    "atr",
    "resampling",
    "checkpoints",
    "fingerprint",
    "datasets",
    "labels",
    "features",
    "waves",
    "validation",
    "metrics",
    "calibration",
]


def room_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.parent != PACKAGE or file.stem != "__init__"]


def test_imports_point_downwards():
    upwards = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in FILES
        for name in imports_of(file)
        if name.startswith("ensemble_kit.")
        and (target := name.split(".")[1]) != room_of(file)
        and FLOOR_OF[target] >= FLOOR_OF[room_of(file)]
    ]
    assert upwards == []


def test_every_room_has_its_floor():
    assert {room_of(file) for file in FILES} <= set(FLOOR_OF)


def test_plain_rooms_know_no_models():
    found = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in FILES
        for name in imports_of(file)
        if room_of(file) in PLAIN and name.split(".")[0] in {"torch", "skorch", "mlflow", "lightgbm"}
    ]
    assert found == []


def test_networks_know_only_torch():
    outside = [
        name
        for file in (PACKAGE / "estimators" / "networks").glob("*.py")
        for name in imports_of(file)
        if name.split(".")[0] not in {"torch", "math", "collections", "typing", "__future__"}
        and not name.startswith("ensemble_kit.estimators.networks")
    ]
    assert outside == []


def test_importing_the_package_is_light():
    code = "import sys, ensemble_kit; print(sorted({'torch', 'mlflow', 'lightgbm', 'pandas'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_public_names():
    assert ensemble_kit.__all__ == sorted(ensemble_kit.__all__)
    for name in ensemble_kit.__all__:
        assert getattr(ensemble_kit, name).__name__ == name
