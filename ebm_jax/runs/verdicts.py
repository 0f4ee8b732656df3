"""Sentences on the results of a run: a verdict, and warnings about what makes it doubtful."""

from collections.abc import Mapping, Sequence

Results = Mapping[str, float]
Rows = Sequence[Mapping[str, str]]

RATIO = "Frechet distance, samples / real"
CALLED = "samples that it calls by their label"
MEMORY = "distance to the training set, samples / held out"
KL = "KL(smoothed data || model), nats"
SHARE = "share in the support, "

LACKS = {  # what a low value means
    "precision": "samples look like no real image",
    "recall": "kinds of real images are missing among the samples",
}


def verdict(results: Results) -> list[str]:
    """Returns what the results say of the samples or of the energy, a sentence each."""
    found = []
    if (ratio := results.get(RATIO)) is not None:
        found.append(
            f"The samples' Frechet distance to held-out images is {ratio:.2f} times that of real "
            f"images: {_in_words(ratio)}."
        )
    if (called := results.get(CALLED)) is not None:
        found.append(
            f"A classifier assigns {called:.0%} of the samples the label that they were drawn for."
        )
    if (bits := results.get("bits per dimension, held out")) is not None:
        error = results.get("bits per dimension, standard error", float("nan"))
        found.append(f"Held-out images take {bits:.2f} ± {error:.2f} bits per dimension.")
    if (kl := results.get(KL)) is not None:
        found.append(f"The model's KL divergence from the smoothed data is {kl:.2g} nats.")
    if {f"{SHARE}samples", f"{SHARE}data"} <= set(results):
        ours, real = results[f"{SHARE}samples"], results[f"{SHARE}data"]
        found.append(f"{ours:.1%} of the samples lie in the support, and {real:.1%} of the data.")
    return found


def warnings(results: Results, rows: Rows) -> list[str]:
    """Returns a sentence for each thing that makes the results doubtful.

    Args:
        results: the results by name.
        rows: the rows of metrics.csv.
    """
    found = []
    if (n := results.get("n", 1000)) < 1000 and RATIO in results:
        found.append(
            f"Only {n:.0f} samples were compared. Frechet distances are biased upwards at this "
            "number: compare them with the column of real images, and with nothing else."
        )
    if results.get(MEMORY, 1.0) < 0.7:
        found.append(
            f"Samples are nearer to the training images than held-out images are (ratio "
            f"{results[MEMORY]:.2f}): the model may copy what it was trained on."
        )
    for name, what in LACKS.items():
        ours = [v for k, v in results.items() if k.startswith(name) and k.endswith(", samples")]
        real = [v for k, v in results.items() if k.startswith(name) and k.endswith(", real")]
        if ours and real and ours[0] < 0.6 * real[0]:
            found.append(
                f"{name.capitalize()} is {ours[0]:.2f}, of real images {real[0]:.2f}: many {what}."
            )
    low, high = (results.get(f"log Z by {end} annealing") for end in ("forward", "reverse"))
    if low is not None and high is not None and high - low > 0.5:
        found.append(
            f"The bounds of log Z are {high - low:.2g} nats apart: do not trust the "
            "log-likelihood. Give more --anneal-levels."
        )
    if results.get("roll-backs", 0) > 0:
        found.append(f"Training diverged and went back {results['roll-backs']:.0f} times.")
    held_out = [float(row["held_out_loss"]) for row in rows if "held_out_loss" in row]
    if held_out and held_out[-1] > 1.15 * min(held_out) > 0:
        found.append(
            f"The held-out loss rose by {held_out[-1] / min(held_out) - 1:.0%} after its lowest "
            "value: training has gone on for too long for so few images."
        )
    return found


def _in_words(ratio: float) -> str:
    """Returns what a ratio of Frechet distances, 1 for perfect samples, means."""
    steps = ((1.25, "by this measure they cannot be told from real ones"),
             (2.0, "close to real ones"),
             (5.0, "visibly different from real ones"))  # fmt: skip
    for most, words in steps:
        if ratio <= most:
            return words
    return "far from real ones"
