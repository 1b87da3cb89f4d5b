"""How much of what a learned prefix is worth is luck: ten seeds, judged on the same new texts.

    python benchmarks/prefix_seeds.py            # toy-64, 300 texts; a quarter of an hour in one thread

A seed draws the start, the held-out texts and the order of the texts. Beside the margin that each fit
reports, of its own thirty held-out texts at its own strength, stands the margin of all of them on 150
texts that none has seen, at 0.05 nats of KL. Results go to benchmarks/prefix_seeds.json.
"""

import argparse
import json
from pathlib import Path

import _measure

import steerlens as sl
from steerlens.evaluate.compare import compare

RESULTS = Path(__file__).parent / "prefix_seeds.json"
SETTINGS = {"usual": sl.Training(), "half the step": sl.Training(lr=0.25)}


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--seeds", type=int, default=10)
    given = asked.parse_args()
    model = sl.load_model("toy-64")
    data, test = (sl.toy.corpus("sentiment", n=n, seed=s) for n, s in ((300, 0), (150, 99)))
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, training in SETTINGS.items():
        fits = {
            str(seed): sl.fit_prompt(
                model, data, kind="kv", training=training, seed=seed, progress=False
            )
            for seed in range(given.seeds)
        }
        table = compare(model, fits, test)
        reported = [
            fit.report.heldout.flipped - fit.report.heldout.steered for fit in fits.values()
        ]
        worth = table.sign_margin.tolist()
        found[name] = {
            "command": "python benchmarks/prefix_seeds.py",
            "setting": _measure.setting(quick=False, threads=1)._asdict(),
            "margin reported": reported,
            "strength reported": [fit.report.strength for fit in fits.values()],
            "margin on new texts at 0.05 nats": worth,
            "median and quartiles": {
                "reported": _measure.quartiles(reported),
                "on new texts": _measure.quartiles(worth),
            },
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(found[name]["median and quartiles"]), worth, flush=True)


if __name__ == "__main__":
    main()
