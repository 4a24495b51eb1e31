"""Photographs in class folders, as ImageNet is laid out: PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg.

They are decoded when a batch wants them, several at once and ahead of time, and never all held in memory.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tombola import files
from tombola.data.augment import resized_crop, uniforms
from tombola.data.download import cache_dir
from tombola.data.facts import Facts
from tombola.errors import DataError, not_installed

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

FORM = "folder:PATH or folder:PATH@SIZE"
SIZE = 224  # pixels, where the name has none
MOST_SIZE = 4096
JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}
SUFFIXES = JPEG | {".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
OF_16_BITS = {"PNG", "PPM"}  # formats whose images of mode I, elsewhere of 32 bits, have 16
MOST_PIXELS = 89_478_485  # of an image, where Pillow begins to warn; 270 MB, several of which are read at once
MOST_VALIDATION = 10_000
MOST_READY = 6  # batches decoded ahead: beyond that the oldest is given up, as nobody came for it

# Of ImageNet's training images; the constants of nearly everything trained on them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Entry(NamedTuple):
    """An image: its path below the root, its class, its size in bytes, when it was changed last."""

    path: str
    label: int
    size: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """What lies in a folder: its classes, and its images in the order of their paths.

    Attributes:
        passed: (suffix, how many) of the files that are not taken for images, the most frequent first.
    """

    root: str
    classes: tuple[str, ...]
    pool: tuple[Entry, ...]
    test: tuple[Entry, ...]
    passed: tuple[tuple[str, int], ...] = field(default=(), compare=False)

    @property
    def entries(self) -> Iterable[Entry]:
        """All images."""
        return (*self.pool, *self.test)


def parts(name: str) -> tuple[Path, int]:
    """The folder and the image size that `name` asks for.

    Raises:
        ValueError: it is not of `FORM`.

    >>> folder, size = parts("folder:/data/birds@64")
    >>> folder.name, size
    ('birds', 64)
    """
    found = re.fullmatch(r"folder:(.+?)(?:@([1-9][0-9]*))?", name)
    if not found:
        raise ValueError(FORM)
    if int(found[2] or SIZE) > MOST_SIZE:
        raise ValueError(f"{FORM} with SIZE up to {MOST_SIZE:,} pixels")
    return Path(found[1]).expanduser().resolve(), int(found[2] or SIZE)


def facts(name: str) -> Facts:
    """What is known of the images below the folder that `name` names, none of them decoded.

    The checksum is SHA-256 over path, size and content of each. It takes a reading of everything once; then it is kept
    in the user's cache until a file is added, removed or changed. Within a process the folder is looked at once.

    Raises:
        ValueError: the name is not of `FORM`.
        DataError: the folder is not laid out as it should be, or a file cannot be read.
    """
    root, size = parts(name)
    return _facts(*_known(root), size)


def passed_over(name: str) -> tuple[tuple[str, int], ...]:
    """(suffix, how many) of the files below the class folders that are not taken for images, the most frequent first.

    Names that begin with a dot are not counted.

    Raises:
        ValueError, DataError: as `facts`.
    """
    listing, _ = _known(parts(name)[0])
    return listing.passed


def _facts(listing: Listing, checksum: str, size: int) -> Facts:
    validation = max(1, min(len(listing.pool) // 10, MOST_VALIDATION))
    return Facts(
        name=f"folder@{size}",  # not its path: the same images elsewhere are the same data
        shape=(3, size, size),
        classes=len(listing.classes),
        train=len(listing.pool) - validation,
        validation=validation,
        test=len(listing.test),
        mean=MEAN,
        std=STD,
        white=255,
        checksum=checksum,
        most_frequent=max(Counter(entry.label for entry in listing.test).values()) / len(listing.test),
    )


@lru_cache(maxsize=8)
def _known(root: Path) -> tuple[Listing, str]:
    listing = listed(root)
    return listing, checksum(listing)


# ---- what lies there


def listed(root: Path) -> Listing:
    """The images below `root`: the pool in train/, the test set in val/, or in test/ where there is no val/.

    Images are known by their suffix, in folders of any depth below that of their class. Names that begin with a dot are
    passed over; so are other files, which are counted.

    Raises:
        DataError: no such folders, not the same classes in both, or a class without an image.
    """
    train = root / "train"
    held = root / "val" if (root / "val").is_dir() else root / "test"
    classes, others = _folders(train), _folders(held)
    if len(classes) < 2:
        found = f"{len(classes)} folder{'s' if len(classes) != 1 else ''}"
        raise _wrong(train, "a folder of images for each of two classes or more", found)
    if classes != others:
        only = [f"{name} in {train.name} only" for name in classes if name not in others]
        only += [f"{name} in {held.name} only" for name in others if name not in classes]
        more = f" and {len(only) - 5} more" if len(only) > 5 else ""
        raise _wrong(held, f"the classes of {train}", ", ".join(only[:5]) + more)
    listing = [[_images(root, place / name, label) for label, name in enumerate(classes)] for place in (train, held)]
    pool, test = (tuple(sorted(entry for entries, _ in part for entry in entries)) for part in listing)
    passed = sum((counted for part in listing for _, counted in part), Counter[str]())
    return Listing(str(root), tuple(classes), pool, test, tuple(passed.most_common()))


def _folders(place: Path) -> list[str]:
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise _wrong(place, "a folder with a folder for each class", error.strerror or str(error)) from error


def _images(root: Path, place: Path, label: int) -> tuple[list[Entry], Counter[str]]:
    """The images of a class, and how many other files of which suffix there are."""

    def unreadable(error: OSError) -> None:
        raise error

    entries: list[Entry] = []
    passed: Counter[str] = Counter()
    try:
        for folder, names in _folders_below(place, unreadable):
            for name in names:
                path = Path(folder, name)
                if name.startswith("."):
                    continue
                if (suffix := path.suffix.lower()) not in SUFFIXES:
                    passed[suffix or "without a suffix"] += 1
                    continue
                state = path.stat()
                entries.append(
                    Entry(path.relative_to(root).as_posix(), label, state.st_size, state.st_mtime_ns),
                )
    except OSError as error:
        raise _wrong(Path(error.filename), "a file or folder that can be read", error.strerror or str(error)) from error
    if not entries:
        found = f"only {counted(passed)}" if passed else "nothing"
        raise _wrong(place, "images, with a suffix like .jpg or .png", found)
    return entries, passed


def counted(passed: Mapping[str, int]) -> str:
    """How many files of which suffix, for people.

    >>> counted({".avif": 1200, ".txt": 1})
    '1,200 .avif, 1 .txt'
    """
    most = sorted(passed.items(), key=lambda item: -item[1])
    more = f" and {sum(number for _, number in most[5:]):,} others" if len(most) > 5 else ""
    return ", ".join(f"{number:,} {suffix}" for suffix, number in most[:5]) + more


def _folders_below(place: Path, unreadable: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Each folder below a class's with the names of its files, once: links can lead to one twice, or in a circle.

    Links are followed last, so that what is there by itself is known by its own name; one to a folder above the class
    leads nowhere.
    """
    seen, places = set(place.resolve().parents), [place]
    while places:
        links = []
        for start in places:
            if start.resolve() in seen:
                continue
            for folder, below, names in os.walk(start, onerror=unreadable):
                seen.add(Path(folder).resolve())
                yield folder, names
                paths = [Path(folder, name) for name in sorted(below) if not name.startswith(".")]
                links += [path for path in paths if path.is_symlink()]
                below[:] = [path.name for path in paths if not path.is_symlink() and path.resolve() not in seen]
        places = links


def _wrong(place: Path, expected: str, found: str) -> DataError:
    todo = "--set recipe.data=folder:PATH names another; it has PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg."
    return DataError(where=str(place), expected=expected, found=found, todo=todo)


def checksum(listing: Listing) -> str:
    """SHA-256 over path, size and content of every image; out of the user's cache where no file has changed since.

    Raises:
        DataError: a file cannot be read.
    """
    key = hashlib.sha256(os.fsencode(listing.root))
    for path, _, size, changed_ns in listing.entries:
        key.update(os.fsencode(f"\0{path}\0{size}\0{changed_ns}"))
    kept = cache_dir() / "folders" / key.hexdigest()
    with ExitStack() as stack:
        with suppress(OSError):  # without a cache it is read again the next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.turn(kept.with_name(kept.name + ".lock")))  # other workers wait for the first
        if kept.is_file() and len(known := kept.read_text()) == 64:
            return known
        total = hashlib.sha256()
        root, entries = Path(listing.root), sorted(listing.entries)
        for entry, digest in zip(
            entries, _side_by_side(lambda entry: _digest(root / entry.path), entries), strict=True
        ):
            total.update(os.fsencode(f"{entry.path}\0{entry.size}\0{digest}\n"))
        with suppress(OSError):
            files.replace(kept, total.hexdigest().encode())
        return total.hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _wrong(path, "a file that can be read", error.strerror or str(error)) from error


def _side_by_side(function: Callable[[Entry], str], entries: Sequence[Entry]) -> Iterator[str]:
    # Some at a time: a future for each of a million files would take a gigabyte.
    for begin in range(0, len(entries), 4096):
        yield from _threads(os.getpid()).map(function, entries[begin : begin + 4096])


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads that read and decode in this process; a forked child, which has none of its parent's, gets its own.

    Threads, not processes: Pillow and hashlib work without the interpreter's lock, and nothing has to be sent.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="images")


# ---- what is read of it


class Pictures:
    """Images in files that stand in for a tensor of N x 3 x SIZE x SIZE bytes of which one asks for some at a time.

    Args:
        root: of the folder.
        entries: which images; their order is that of the places.
        size: of the square that is made of each.
    """

    def __init__(self, root: Path, entries: Sequence[Entry], size: int) -> None:
        import torch

        self._root, self._entries, self.size = root, entries, size
        self.device = torch.device("cpu")  # whoever wants them elsewhere sends what was taken
        self._ready: dict[Any, tuple[Tensor, list[Future[None]]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def to(self, device: str) -> "Pictures":
        """Itself: files stay where they are."""
        return self

    def index_select(self, dim: int, places: "Tensor") -> "Tensor":
        """Images at `places` as an evaluation sees them: the shorter side at SIZE * 256 / 224, the middle of it."""
        return self.take(places)

    def begin(self, places: "Tensor", draws: tuple[int, int] | None = None) -> None:
        """Start decoding what `take` will be asked for."""
        import torch

        key = _key(places, draws)
        if key in self._ready:
            return
        while len(self._ready) >= MOST_READY:
            _, forgotten = self._ready.pop(next(iter(self._ready)))
            for future in forgotten:
                future.cancel()
        images = torch.empty(len(places), 3, self.size, self.size, dtype=torch.uint8)
        submit = _threads(os.getpid()).submit
        futures = [submit(self._fill, row, place, draws) for row, place in zip(images, places.tolist(), strict=True)]
        self._ready[key] = images, futures

    def take(self, places: "Tensor", draws: tuple[int, int] | None = None) -> "Tensor":
        """Images at `places`, N x 3 x SIZE x SIZE bytes.

        Args:
            draws: (augment_seed, step), for a part of each image, drawn by `augment.resized_crop`, that is mirrored
                with probability 1/2; by default as an evaluation sees it.

        Raises:
            DataError: a file is not an image that can be read; names it.
        """
        self.begin(places, draws)
        images, futures = self._ready.pop(_key(places, draws))
        for future in futures:
            future.result()
        return images

    def _fill(self, row: "Tensor", place: int, draws: tuple[int, int] | None) -> None:
        import numpy as np
        import torch

        path = self._root / self._entries[place].path
        image = _decoded(path, self.size, None if draws is None else (*draws, place))
        row.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def _key(places: "Tensor", draws: tuple[int, int] | None) -> Any:
    # With the process: what a fork's parent has under way never ends here.
    return os.getpid(), draws, places.numpy().tobytes()


def _decoded(path: Path, size: int, draws: tuple[int, int, int] | None) -> "Image.Image":
    from PIL import Image

    try:
        with Image.open(path) as opened:
            _check_pixels(opened.size, size, path)
            image = _in_8_bits(opened, path)
    except (MemoryError, DataError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, f"more ({error})") from error
    except Exception as error:  # Pillow's readers raise whatever the bytes lead them to
        raise DataError(
            where=str(path),
            expected="an image",
            found=f"a file that cannot be read as one ({error})",
            todo="Replace it, or remove it: then it is another data set, with other keys.",
        ) from error
    return trained_on(image, size, *draws) if draws else evaluated_on(image, size)


def _check_pixels(sides: tuple[int, int], size: int, path: Path) -> None:
    """Raise DataError where the image, or what an evaluation makes of it, would take gigabytes: a line, for one."""
    width, height = sides
    if width * height > MOST_PIXELS:
        raise _too_large(path, f"{width:,} x {height:,}")
    if _shorter(size) ** 2 * max(sides) > MOST_PIXELS * min(sides):
        raise _too_large(path, f"{width:,} x {height:,}, whose shorter side is brought to {_shorter(size):,}")


def _too_large(path: Path, found: str) -> DataError:
    return DataError(
        where=str(path),
        expected=f"an image of at most {MOST_PIXELS:,} pixels",
        found=found,
        todo="Make it smaller, or remove it: then it is another data set, with other keys.",
    )


def _shorter(size: int) -> int:
    return round(size * 256 / 224)


def _in_8_bits(opened: "Image.Image", path: Path) -> "Image.Image":
    """The image in red, green and blue; of 16 bits of grey the brightest stays so, where `convert` would clip."""
    from PIL import Image

    if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in OF_16_BITS):
        import numpy as np

        return Image.fromarray(np.round(np.asarray(opened) / 257).astype(np.uint8)).convert("RGB")
    if opened.mode in ("I", "F"):
        raise DataError(
            where=str(path),
            expected="an image of 8 or 16 bits per channel",
            found=f"Pillow's mode {opened.mode}, numbers of which nothing says how large the brightest is",
            todo="Save it with 8 or 16 bits, all images scaled alike.",
        )
    return opened.convert("RGB")


def evaluated_on(image: "Image.Image", size: int) -> "Image.Image":
    """The middle square of `image`, its shorter side first brought to 256 / 224 of `size` pixels."""
    from PIL import Image

    shorter, (width, height) = _shorter(size), image.size
    least = min(width, height)
    width, height = shorter * width // least, shorter * height // least
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def trained_on(image: "Image.Image", size: int, augment_seed: int, step: int, place: int) -> "Image.Image":
    """A part of `image`, drawn by `resized_crop` and brought to `size` pixels, mirrored with probability 1/2."""
    from PIL import Image

    key = augment_seed, step, place
    left, top, width, height = resized_crop(*image.size, *key)
    part = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if uniforms("mirror", *key)[0] < 0.5 else part


def opened(name: str) -> tuple[Facts, Any, Any, Any, Any]:
    """Facts, the pool's images and labels and the test set's, of the folder that `name` names, for `data.Dataset`.

    Raises:
        DataError: the folder is not laid out as it should be, or has changed since `facts` looked at it.
        BadInput: Pillow is not installed.
    """
    root, size = parts(name)
    listing, known = _known(root)
    if listed(root) != listing:
        _known.cache_clear()
        raise DataError(
            where=str(root),
            expected="the images that were there when it was first looked at",
            found="others",
            todo="Run the same command again, and leave the folder alone while it runs.",
        )
    return _opened(listing, known, size)


def _opened(listing: Listing, checksum: str, size: int) -> tuple[Facts, Any, Any, Any, Any]:
    import torch

    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise not_installed(listing.root, "Pillow, which reads images", "images") from error
    held: list[Any] = []
    for entries in (listing.pool, listing.test):
        held += [Pictures(Path(listing.root), entries, size), torch.tensor([entry.label for entry in entries])]
    images, labels, test_images, test_labels = held
    return _facts(listing, checksum, size), images, labels, test_images, test_labels


def publish(name: str, file: Path) -> None:
    """Write what `opened` found to `file` for `attach`: where the images are, not the images.

    Raises:
        DataError, BadInput: as `opened`.
    """
    opened(name)
    root, size = parts(name)
    listing, known = _known(root)
    content = {"root": listing.root, "classes": listing.classes, "pool": listing.pool, "test": listing.test}
    file.write_text(json.dumps({"size": size, "checksum": known, **content}), encoding="utf-8")


def attach(file: Path) -> tuple[Facts, Any, Any, Any, Any]:
    """What `publish` wrote, as `opened` has it, without another look at the folder."""
    content = json.loads(file.read_text(encoding="utf-8"))
    pool, test = (tuple(Entry(*entry) for entry in content[part]) for part in ("pool", "test"))
    listing = Listing(content["root"], tuple(content["classes"]), pool, test)
    return _opened(listing, content["checksum"], content["size"])
