"""Fig. 6 to 10: methods side by side on the paper's groups of devices and links, and on its models."""

from __future__ import annotations

from distredge.experiments.base import OURS, Claim, Judgement, Results
from distredge.experiments.judging import BASELINES, grade, judged_faster, judged_larger, judged_within, rows_of
from distredge.experiments.methods import comparison

VGG = ("vgg16",)
MODELS = ("vgg16", "resnet50", "inception_v3", "yolov2", "ssd_resnet50", "ssd_vgg16", "openpose", "voxelnet")
DEVICES = ("da-50", "db-50", "dc-50", "da-300", "db-300", "dc-300")
NETWORKS = tuple(f"n{group}-{board}" for board in ("nano", "xavier") for group in "abcd")
LARGE = ("la", "lb", "lc", "ld")

FIG6 = comparison(
    "fig6", "Fig. 6: unequal devices (VGG-16)",
    "Groups DA, DB and DC of Table I at 50 and 300 Mbit/s; DistrEdge is fastest in every case.", VGG, DEVICES,
)  # fmt: skip
FIG7 = comparison(
    "fig7", "Fig. 7: unequal links (VGG-16)",
    "Groups NA to ND of Table II with four Nanos or four Xaviers; DistrEdge is fastest in every case.", VGG, NETWORKS,
)  # fmt: skip
FIG8 = comparison(
    "fig8",
    "Fig. 8: 16 devices (VGG-16)",
    "Cases LA to LD of Table III; DistrEdge is fastest in every case.",
    VGG,
    LARGE,
)
FIG9 = comparison(
    "fig9", "Fig. 9: eight models (DB, 50 Mbit/s)", "DistrEdge is fastest on every model.", MODELS, ("db-50",)
)
FIG10 = comparison(
    "fig10", "Fig. 10: eight models (NA, Nano)", "DistrEdge is fastest on every model.", MODELS, ("na-nano",)
)

EXPERIMENTS = (FIG6, FIG7, FIG8, FIG9, FIG10)

ALL = ("fig6", "fig7", "fig8", "fig9", "fig10")

RANGE = "every factor in the range (to 0.05); partly: half of them, or none below it; else not"
FASTER = "faster than the best of the seven baselines in every case; partly: in half of them; else not"
LARGER = "the least factor of the former is above the largest of the latter; partly: their medians differ so; else not"


def judge_idle_pi(results: Results, subject: str) -> Judgement:
    """Whether the Pi 3 of group DC computes nothing."""
    rows = [
        r for r in rows_of(results, ("fig6",))
        if str(r["scenario"]).startswith("dc-") and r["method"] == subject and r["workers"]
    ]  # fmt: skip
    if not rows:
        return Judgement("not run", "the method was left out")
    idle = sum(1 for r in rows if "pi" not in str(r["workers"]))
    return Judgement(grade(idle, len(rows)), f"idle in {idle} of {len(rows)} plans")


CLAIMS = (
    Claim(
        "speed-up", "1.1 to 3 times as fast as the best baseline", "abstract, section VII", ALL, RANGE,
        judged_within(ALL, (), 1.1, 3.0, BASELINES), OURS,
    ),
    Claim(
        "devices-faster", "unequal devices: faster than every baseline in all cases", "section V-D1, Fig. 6", ("fig6",),
        FASTER, judged_faster(("fig6",)), OURS,
    ),
    Claim(
        "devices-db-dc", "1.5 to 3 times as fast as AOFL in DB and DC", "section V-D1, Fig. 6", ("fig6",), RANGE,
        judged_within(("fig6",), ("db-", "dc-"), 1.5, 3.0, ("aofl",)), OURS,
    ),
    Claim(
        "devices-da", "1.2 to 1.5 times as fast as AOFL in DA", "section V-D1, Fig. 6", ("fig6",), RANGE,
        judged_within(("fig6",), ("da-",), 1.2, 1.5, ("aofl",)), OURS,
    ),
    Claim(
        "devices-more-unequal", "gains over AOFL are larger in DB and DC than in DA", "section V-D1, Fig. 6", ("fig6",),
        LARGER, judged_larger(("fig6",), ("db-", "dc-"), ("da-",)), OURS,
    ),
    Claim(
        "idle-pi", "the Pi 3 in DC is allocated no computation", "section VI (2)", ("fig6",),
        "in every plan; partly: in some; else not", judge_idle_pi, OURS,
    ),
    Claim(
        "networks-faster", "unequal links: faster than every baseline in all cases", "section V-D2, Fig. 7", ("fig7",),
        FASTER, judged_faster(("fig7",)), OURS,
    ),
    Claim(
        "networks-na-nd", "1.2 to 1.7 times as fast as AOFL in NA and ND", "section V-D2, Fig. 7", ("fig7",), RANGE,
        judged_within(("fig7",), ("na-", "nd-"), 1.2, 1.7, ("aofl",)), OURS,
    ),
    Claim(
        "networks-nb-nc", "1.1 to 1.3 times as fast as AOFL in NB and NC", "section V-D2, Fig. 7", ("fig7",), RANGE,
        judged_within(("fig7",), ("nb-", "nc-"), 1.1, 1.3, ("aofl",)), OURS,
    ),
    Claim(
        "networks-more-unequal", "gains over AOFL are larger in NA and ND than in NB and NC", "section V-D2, Fig. 7",
        ("fig7",), LARGER, judged_larger(("fig7",), ("na-", "nd-"), ("nb-", "nc-")), OURS,
    ),
    Claim(
        "large-faster", "16 devices: faster than every baseline in all four cases", "section V-D3, Fig. 8", ("fig8",),
        FASTER, judged_faster(("fig8",)), OURS,
    ),
    Claim(
        "large", "1.3 to 3 times as fast as AOFL in LA to LD", "section V-D3, Fig. 8", ("fig8",), RANGE,
        judged_within(("fig8",), (), 1.3, 3.0, ("aofl",)), OURS,
    ),
    Claim(
        "models", "1.1 to over 2.6 times as fast as the best baseline on all models", "section V-E, Fig. 9 and 10",
        ("fig9", "fig10"), RANGE, judged_within(("fig9", "fig10"), (), 1.1, 2.6, BASELINES), OURS,
    ),
)  # fmt: skip
