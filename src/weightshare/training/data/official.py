"""The official files of the named sets: their names, where they are published, and the checksums of their content.

What is checked, always on the content after decompression, never on how it was packed:

- MNIST, Fashion-MNIST: SHA-256 of the four idx files. They were computed here; those of MNIST are of files whose MD5 is
  the one that torchvision publishes for the unpacked training images, those of Fashion-MNIST of files in Debian's
  package dataset-fashion-mnist, whose .gz files have the MD5 that the authors publish.
- CIFAR, python version: MD5 of each batch, as torchvision publishes them.
- CIFAR, binary version: SHA-1 of each batch, as Apache MXNet (gluon.data.vision) publishes them.

MD5 and SHA-1 find damage; they would not stop somebody who forges a file on purpose. Nothing in a file is ever run, so
a forged one could hold wrong images at worst.
"""

from dataclasses import dataclass
from typing import Literal

Format = Literal["idx", "cifar10-binary", "cifar100-binary", "cifar10-python", "cifar100-python"]


@dataclass(frozen=True)
class File:
    """A file and the checksum of its content, unpacked: `algorithm:hex`."""

    name: str
    checksum: str


@dataclass(frozen=True)
class Edition:
    """One form in which a set is published.

    Args:
        format: How its files are read.
        train: Files of the training part, in order; for idx, images and then labels.
        test: Likewise.
        folders: Where they may lie unpacked, from the folder of data sets.
        archive: The tar.gz that holds them all; or nothing, where each is published by itself, as `.gz`.
        url: What the name of the archive or of a file is put behind.
    """

    format: Format
    train: tuple[File, ...]
    test: tuple[File, ...]
    folders: tuple[str, ...]
    archive: str
    url: str

    @property
    def files(self) -> tuple[File, ...]:
        return self.train + self.test


@dataclass(frozen=True)
class Official:
    """A named set: its editions, the best one first, and its classes."""

    editions: tuple[Edition, ...]
    class_names: tuple[str, ...]


def _idx(folders: tuple[str, ...], url: str, train: tuple[str, str], test: tuple[str, str]) -> tuple[Edition]:
    parts = []
    for part, checksums in (("train", train), ("t10k", test)):
        names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        parts.append(tuple(File(name, f"sha256:{checksum}") for name, checksum in zip(names, checksums, strict=True)))
    return (Edition("idx", parts[0], parts[1], folders, "", url),)


_TORONTO = "https://www.cs.toronto.edu/~kriz/"

_CIFAR10 = (
    Edition(
        "cifar10-binary",
        (
            File("data_batch_1.bin", "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
            File("data_batch_2.bin", "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
            File("data_batch_3.bin", "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
            File("data_batch_4.bin", "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e"),
            File("data_batch_5.bin", "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628"),
        ),
        (File("test_batch.bin", "sha1:67eb016db431130d61cd03c7ad570b013799c88c"),),
        ("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"),
        "cifar-10-binary.tar.gz",
        _TORONTO,
    ),
    Edition(
        "cifar10-python",
        (
            File("data_batch_1", "md5:c99cafc152244af753f735de768cd75f"),
            File("data_batch_2", "md5:d4bba439e000b95fd0a9bffe97cbabec"),
            File("data_batch_3", "md5:54ebc095f3ab1f0389bbae665268c751"),
            File("data_batch_4", "md5:634d18415352ddfa80567beed471001a"),
            File("data_batch_5", "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
        ),
        (File("test_batch", "md5:40351d587109b95175f43aff81a1287e"),),
        ("cifar10/cifar-10-batches-py", "cifar-10-batches-py"),
        "cifar-10-python.tar.gz",
        _TORONTO,
    ),
)

_CIFAR100 = (
    Edition(
        "cifar100-binary",
        (File("train.bin", "sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e"),),
        (File("test.bin", "sha1:8fb6623e830365ff53cf14adec797474f5478006"),),
        ("cifar100/cifar-100-binary", "cifar-100-binary"),
        "cifar-100-binary.tar.gz",
        _TORONTO,
    ),
    Edition(
        "cifar100-python",
        (File("train", "md5:16019d7e3df5f24257cddd939b257f8d"),),
        (File("test", "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        ("cifar100/cifar-100-python", "cifar-100-python"),
        "cifar-100-python.tar.gz",
        _TORONTO,
    ),
)

_CLOTHES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_THINGS = "airplane automobile bird cat deer dog frog horse ship truck"
_MORE_THINGS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

OFFICIAL: dict[str, Official] = {
    "mnist": Official(
        _idx(
            ("mnist", "mnist/raw", "MNIST/raw"),
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        tuple("0123456789"),
    ),
    "fashion-mnist": Official(
        _idx(
            ("fashion-mnist", "fashion-mnist/raw", "FashionMNIST/raw"),
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        tuple(_CLOTHES.split(", ")),
    ),
    "cifar10": Official(_CIFAR10, tuple(_THINGS.split())),
    "cifar100": Official(_CIFAR100, tuple(_MORE_THINGS.split())),
}
"""The named sets. Tests put checksums of small made-up files here."""
