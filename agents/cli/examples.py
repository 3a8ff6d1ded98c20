"""One or two examples for each command, shown at the end of its help; a test reads each of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "align": (
        "align photo.jpg",
        "align holiday --json faces.json --draw drawn",
    ),
    "track": (
        "track clip.mp4 --video tracked.mp4 --csv faces.csv --smooth",
        "track 0 --json faces.json --max-frames 300",
    ),
    "export": (
        "export 300w-68 --output 300w-68.onnx",
        "export runs/demo --input crop --output demo.onnx",
    ),
    "app": (
        "app",
        "app --weights runs/demo --port 8000 --open",
    ),
    "run": (
        "run --dataset synthetic --option size=600 --preset tiny --name demo",
        "run --dataset 300w --root path/to/300w --seeds 3",
    ),
    "pretrain gen": (
        "pretrain gen --preset tiny --option size=600",
        "pretrain gen --dataset 300w --root path/to/300w --epochs 50",
    ),
    "pretrain lrn": (
        "pretrain lrn --preset tiny --option size=600 --iterations 4",
        "pretrain lrn --preset tiny --from mean --output runs/lrn-8",
    ),
    "train": (
        "train --option size=600 --timesteps 20000",
        "train --agent paper --set noise=2 --env reward=dense --output runs/dcrn-dense",
    ),
    "sweep": (
        "sweep --preset tiny --option size=600 --search lrn-learning-rate=log:1e-4:1e-2 --search alpha-2=2.0:6.0",
        "sweep --dataset 300w --root path/to/300w --search gen-epochs=100,200,400 --stage gen --cluster auto",
    ),
    "evaluate": (
        "evaluate runs/demo",
        "evaluate runs/demo --split test --json",
    ),
    "robustness": ("robustness runs/demo --faces 200",),
    "tradeoff": ("tradeoff runs/demo --alpha-2 1 --alpha-2 2 --alpha-2 4",),
    "ablate": ("ablate runs/demo --only no-imitation --only paper --timesteps 4000",),
    "calibrate": ("calibrate runs/demo", "calibrate 300w-68 --root path/to/300w"),
    "summarize": ("summarize runs/300w-compact",),
    "release": ("release runs/300w-compact --name 300w-68 --output weights",),
    "watch": (
        "watch runs/demo --index 3",
        "watch runs/demo --method gen-lrn8 --output episode.png",
    ),
    "benchmark": (
        "benchmark --algos dcrn,sac,ppo --seeds 3 --landmarks 19 --option size=600",
        "benchmark --task FaceAlign/State19-v0 --algos ppo,sac,td3 --seeds 3",
        "benchmark --algos sac,my_module:MyAlgorithm --set sac.learning_rate=0.001",
    ),
    "benchmark-tune": ("benchmark-tune --task FaceAlign/State19-v0 --algos ppo,sac --trials 10",),
    "benchmark-report": ("benchmark-report docs/benchmark/state19.csv --output runs/report",),
    "compare": ("compare runs/benchmark-a runs/benchmark-b",),
    "speed": ("speed --only env --only networks",),
    "collect": (
        "collect --policy random --landmarks 19 --episodes 500",
        "collect --run runs/demo --noise 1",
    ),
    "data list": ("data list",),
    "data verify": ("data verify 300w --root path/to/300w --decode",),
    "data download": ("data download 300w",),
    "data prepare": ("data prepare synthetic --split train --option size=20000",),
    "data clear": ("data clear 300w",),
    "data show": ("data show 300w --split challenging --index 3 --index 8",),
}


def epilog(command: str) -> str | None:
    """The end of a command's help; None: it has no examples."""
    lines = EXAMPLES.get(command)
    return None if lines is None else "\n\n".join(["Examples:", *(f"face-align {line}" for line in lines)])
