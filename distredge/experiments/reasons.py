"""Why a claim came out as it did, by claim and verdict of its first subject: written by hand after looking at results.

A reason is shown only beside the verdict that it was written for; where none is known, none stands here.
"""

from __future__ import annotations

DEVICES = (
    "AOFL here leaves slow devices out, as its authors' does (in DB it takes the two Xaviers, in DC the Xavier alone)."
    " An AOFL that must use all devices comes out as the paper has it, so the paper's AOFL probably had to."
)

REASONS: dict[tuple[str, str], str] = {
    ("speed-up", "holds partly"): (
        "On these boards there is often little to share: a Xavier computes VGG-16 in 7.6 ms, while its image takes 51"
        " ms over 50 Mbit/s and one halo row of the first layers 5 ms. The baselines that may leave devices out (AOFL,"
        " CoEdge, offload) then are near the best. osds-paper is held back by keeping every device busy: its cuts begin"
        " in the middle and it explores for 250 episodes only (docs/agent.md)."
    ),
    ("devices-db-dc", "does not hold"): DEVICES,
    ("devices-more-unequal", "does not hold"): DEVICES,
    ("networks-na-nd", "holds partly"): (
        "As with unequal devices: AOFL here leaves out slow links (in ND with Xaviers it takes the one at 300 Mbit/s)."
        " Measured against an AOFL that must use all devices, the gains are larger, with Xaviers larger than the"
        " paper's."
    ),
    ("networks-more-unequal", "does not hold"): (
        "The more unequal the links, the more AOFL gains here by leaving the slow ones out."
    ),
    ("large", "holds partly"): (
        "The exception is LA, sixteen Nanos: AOFL takes the eight with fast links and loses little."
    ),
    ("models", "holds partly"): (
        "Large images and large feature maps on 50 Mbit/s: for ResNet-50 and the SSDs on DB the fastest is one Xavier"
        " alone, which is a baseline (offload). Where sharing pays (na-nano), the gains are within the range."
    ),
    ("alpha-best", "holds partly"): (
        "With sixteen devices every exchange between volumes costs messages among many, so fewer volumes (alpha 1) win"
        " on LC and LD; on DB at 50 Mbit/s hardly anything beats one Xavier alone, whatever alpha is."
    ),
    ("alpha-extremes", "holds partly"): (
        "Where one device alone is nearly best (DB at 50 Mbit/s) alpha decides nothing; on LC and LD alpha 1 is the"
        " best."
    ),
    ("alpha-volumes", "holds partly"): (
        "At alpha 0 some layers may stay together at no cost (a pooling behind its convolution has no halo), and a cut"
        " must lower the score: 14 volumes. With sixteen devices alpha 1 gives three."
    ),
    ("samples", "holds partly"): (
        "Here all schemes are scored on the same random decisions, so their differences vary less than the scores, and"
        " 25 are nearly enough; on DB at 50 Mbit/s every scheme that LC-PSS finds ends with one Xavier doing all."
    ),
    ("dynamic-share", "does not hold"): (
        "It is what Fig. 7 gives for four Nanos (1.1 to 1.3 times as fast as AOFL): AOFL here may leave out devices"
        " whose links are slow, and does so anew at every moment. The traces are not the paper's."
    ),
    ("equal-computing", "holds partly"): (
        "Of the DeepThings layers only those up to the third pooling are split, the rest runs on a Xavier. osds lets"
        " the Nanos compute while the Xaviers' links are busy, which takes longer and costs nothing."
    ),
    ("adapting", "holds partly"): (
        "AOFL's partition is searched by dynamic programming here, as its authors describe it, not by brute force."
    ),
    ("nonlinear", "holds partly"): (
        "A GPU computes rows in waves, so latency is a staircase where maps are small; a CPU's latency is nearly"
        " straight. The GPUs' staircase is part of the calibrated model, so this is no independent evidence for it."
    ),
    ("aofl-computing", "does not hold"): (
        "AOFL takes the two Xaviers only, which compute for a short time; osds gives work to the Nanos while the"
        " Xaviers' links are busy. The longest computing is longer, the image is done sooner."
    ),
}
