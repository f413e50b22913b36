"""Make bench/datasets/classes/*.csv from WordNet 3.0: which ImageNet classes are which COCO and VOC category.

A class belongs to a category where its synset is one of the category's roots below or lies under one of them;
the nearest root wins. `strict` roots mean the same thing as the category. `loose` ones are shown in pictures that
annotators label with the category, though the words differ; a root can be a single class.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    python scripts/make_class_maps.py wordnet/usr/share/wordnet/data.noun
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

from timm.data import ImageNetInfo

FOLDER = Path(__file__).parents[1] / "bench" / "datasets" / "classes"

# Category -> roots as "word offset"; the word is checked against WordNet.
STRICT = {
    "person": "person n00007846",
    "bicycle": "bicycle n02834778",
    "car": "car n02958343",
    "motorcycle": "motorcycle n03790512, motor scooter n03791053",
    "airplane": "airplane n02691156, warplane n04552348",
    "bus": "bus n02924116",
    "train": "train n04468005, locomotive n03684823, railcar n02959942",
    "truck": "truck n04490091",
    "boat": "boat n02858304",
    "traffic light": "traffic light n06874185",
    "fire hydrant": "",
    "stop sign": "",
    "parking meter": "parking meter n03891332",
    "bench": "bench n02828884",
    "bird": "bird n01503061",
    "cat": "domestic cat n02121808",
    "dog": "dog n02084071",
    "horse": "horse n02374451",
    "sheep": "sheep n02411705",
    "cow": "cattle n02402425",
    "elephant": "elephant n02503517",
    "bear": "bear n02131653",
    "zebra": "zebra n02391049",
    "giraffe": "giraffe n02439033",
    "backpack": "backpack n02769748",
    "umbrella": "umbrella n04507155",
    "handbag": "",
    "tie": "necktie n03815615",
    "suitcase": "",
    "frisbee": "",
    "skis": "ski n04228054",
    "snowboard": "",
    "sports ball": "ball n02778669",
    "kite": "",  # ImageNet's kite is the bird
    "baseball bat": "",
    "baseball glove": "",
    "skateboard": "",
    "surfboard": "",
    "tennis racket": "",
    "bottle": "bottle n02876657",
    "wine glass": "",
    "cup": "cup n03147509, mug n03797390",
    "fork": "",
    "knife": "knife n03623556",
    "spoon": "spoon n04284002",
    "bowl": "bowl n02880940",
    "banana": "banana n07753592",
    "apple": "apple n07739125",
    "sandwich": "sandwich n07695965",
    "orange": "orange n07747607",
    "broccoli": "broccoli n07714990",
    "carrot": "",
    "hot dog": "hotdog n07697537",
    "pizza": "pizza n07873807",
    "donut": "",
    "cake": "",
    "chair": "chair n03001627",
    "couch": "couch n04256520",
    "potted plant": "",
    "bed": "bed n02818832",
    "dining table": "dining table n03201208",
    "toilet": "",
    "tv": "television n04404412, monitor n03782006",
    "laptop": "laptop n03642806, notebook n03832673",
    "mouse": "computer mouse n03793489",
    "remote": "remote control n04074963",
    "keyboard": "computer keyboard n03085013",
    "cell phone": "cellular telephone n02992529",
    "microwave": "microwave n03761084",
    "oven": "oven n03862676",
    "toaster": "toaster n04442312",
    "sink": "washbasin n04553703",
    "refrigerator": "refrigerator n04070727",
    "book": "",
    "clock": "clock n03046257",
    "vase": "vase n04522168",
    "scissors": "",
    "teddy bear": "teddy n04399382",
    "hair drier": "hand blower n03483316",
    "toothbrush": "",
}
# COCO and VOC label ships as boats.
LOOSE = {
    "boat": "container ship n03095699, liner n03673027, pirate n03947888, sailing vessel n04128837",
    "train": "streetcar n04335435",
    "sheep": "bighorn n02415577",
    "bed": "baby bed n02766320",
    "tv": "screen n04152593, desktop computer n03180011",  # both pictures show a monitor
    "oven": "stove n04330267",
    "toilet": "toilet seat n04447861",
    "potted plant": "pot n03991062",  # the synset is the flowerpot, the pictures show plants in it
    "handbag": "purse n04026417",
    "tennis racket": "racket n04039381",
    "wine glass": "goblet n03443371, red wine n07892512",
    "cup": "beer glass n02823750, measuring cup n03733805, espresso n07920052, cup n07930864",
    "bottle": "water jug n04560804, whiskey jug n04579145",
    "knife": "letter opener n03658185",
    "spoon": "ladle n03633091",
    "elephant": "tusker n01871265",
    "book": "comic book n06596364, book jacket n07248320",
}
# Under a root in WordNet, but pictures show something else.
NOT = {
    "n03259280": "Dutch oven: a pot",
    "n04023962": "punching bag: hangs, no ball",
}
VOC = {
    "aeroplane": "airplane",
    "bicycle": "bicycle",
    "bird": "bird",
    "boat": "boat",
    "bottle": "bottle",
    "bus": "bus",
    "car": "car",
    "cat": "cat",
    "chair": "chair",
    "cow": "cow",
    "diningtable": "dining table",
    "dog": "dog",
    "horse": "horse",
    "motorbike": "motorcycle",
    "person": "person",
    "pottedplant": "potted plant",
    "sheep": "sheep",
    "sofa": "couch",
    "train": "train",
    "tvmonitor": "tv",
}


def read_nouns(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Words and direct hypernyms of every noun synset in WordNet's data.noun (format: wndb(5WN))."""
    words, above = {}, {}
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" | ")[0].split()
        number = int(fields[3], 16)
        synset, pointers = f"n{fields[0]}", fields[5 + 2 * number :]
        words[synset] = [fields[4 + 2 * i].replace("_", " ") for i in range(number)]
        above[synset] = [f"n{pointers[i + 1]}" for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
    return words, above


def distances(synset: str, above: dict[str, list[str]]) -> dict[str, int]:
    """Count the steps from a synset up to each of its hypernyms, itself included."""
    found, level, step = {}, [synset], 0
    while level:
        for one in level:
            found.setdefault(one, step)
        level = [higher for one in level for higher in above[one] if higher not in found]
        step += 1
    return found


def roots(table: dict[str, str], words: dict[str, list[str]]) -> dict[str, str]:
    """Synset -> category, checked against WordNet's words."""
    found = {}
    for category, listed in table.items():
        for root in filter(None, listed.split(", ")):
            word, synset = root.rsplit(" ", 1)
            if word not in words[synset]:
                raise ValueError(f"{synset} is {words[synset]}, not {word}")
            found[synset] = category
    return found


def main() -> None:
    """Write the three tables."""
    words, above = read_nouns(Path(sys.argv[1]))
    synsets = ImageNetInfo("imagenet-1k").label_names()
    first = [words[synset][0] for synset in synsets]
    twice = {name for name, count in Counter(name.lower() for name in first).items() if count > 1}
    # Names are classes' names in tables, so they must differ: crane (the bird and the machine), ...
    pairs = list(zip(first, synsets, strict=True))
    names = [f"{name} ({synset})" if name.lower() in twice else name for name, synset in pairs]
    classes = [[index, synset, name] for index, (synset, name) in enumerate(zip(synsets, names, strict=True))]
    write("imagenet", ["index", "wnid", "name"], classes)
    strict, loose = roots(STRICT, words), roots(LOOSE, words)
    rows = []
    for index, (synset, name) in enumerate(zip(synsets, names, strict=True)):
        up = {} if synset in NOT else distances(synset, above)
        for match, table in (("loose", loose), ("strict", strict)):
            root = min((one for one in up if one in table), key=up.__getitem__, default=None)
            if root is not None:
                rows.append([index, synset, name, table[root], match, root])
                break
    header = ["index", "wnid", "name", "category", "match", "root"]
    write("imagenet_to_coco", header, rows)
    back = {coco: voc for voc, coco in VOC.items()}
    write("imagenet_to_voc", header, [[*r[:3], back[r[3]], *r[4:]] for r in rows if r[3] in back])


def write(name: str, header: list[str], rows: list[list[object]]) -> None:
    """Write one csv."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
