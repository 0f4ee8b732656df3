"""Points from files: the same numbers from each kind of file, and one sentence for each fault."""

import numpy as np
import pytest

from ebm_jax.data import DataError, load_points, memory

RNG = np.random.default_rng(0)
X = RNG.normal([1.0, -50.0, 3e5], [0.1, 20.0, 1e5], (40, 3))


def rows(x):
    return sorted(map(tuple, x))


def write_csv(path, x, header="", separator=","):
    lines = [header] if header else []
    lines += [separator.join(repr(float(v)) for v in row) for row in x]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def file(tmp_path):
    """file(kind) -> the path of a file of that kind that holds X."""

    def make(kind):
        path = tmp_path / f"points.{kind.rpartition(' ')[2]}"
        if kind == "npy":
            np.save(path, X)
        elif kind == "alone npz":
            np.savez(path, whatever=X)
        elif kind == "named npz":
            np.savez(path, x=X, other=X[:5], labels=np.arange(40))
        else:
            header = {"named csv": "a,b b,c", "quoted csv": '"a";"b b";"c"', "tabs csv": ""}
            separator = {"quoted csv": ";", "tabs csv": "\t"}.get(kind, ",")
            write_csv(path, X, header.get(kind, ""), separator)
        return path

    return make


KINDS = ("npy", "alone npz", "named npz", "csv", "named csv", "quoted csv", "tabs csv")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_same_points(file, kind):
    points = load_points(file(kind))
    assert rows(np.concatenate([points.train, points.held_out])) == rows(X)
    assert (len(points.train), len(points.held_out)) == (30, 10)
    assert points.names == (("a", "b b", "c") if kind[:4] in ("name", "quot") and "csv" in kind
                            else ("x0", "x1", "x2"))  # fmt: skip


def test_the_division_is_the_same_in_every_run_and_mixes_the_order(file):
    first, second = (load_points(file(kind)) for kind in ("npy", "csv"))
    np.testing.assert_array_equal(first.held_out, second.held_out)
    assert not np.array_equal(first.held_out, X[:10])
    assert first.fingerprint() == second.fingerprint()


def test_a_published_test_set_is_kept(tmp_path):
    np.savez(tmp_path / "p.npz", x_train=X[:30], x_test=X[30:])
    points = load_points(tmp_path / "p.npz")
    np.testing.assert_array_equal(points.train, X[:30])
    np.testing.assert_array_equal(points.held_out, X[30:])


def test_whole_numbers_and_booleans_are_numbers(tmp_path):
    x = RNG.integers(0, 2, (40, 2))
    for i, array in enumerate((x, x.astype(bool), x.astype(np.float16))):
        np.save(tmp_path / f"{i}.npy", array)
        points = load_points(tmp_path / f"{i}.npy")
        assert rows(np.concatenate([points.train, points.held_out])) == rows(x.astype(float))
        assert points.train.dtype == np.float64


def test_one_changed_number_changes_the_fingerprint(tmp_path):
    found = []
    for change in (0.0, 1e-9):
        x = X.copy()
        x[3, 0] += change
        np.save(tmp_path / "p.npy", x)
        found.append(load_points(tmp_path / "p.npy").fingerprint())
    assert found[0] != found[1]
    assert found[0]["count"] == 30


def with_value(row, column, value):
    x = X.copy()
    x[row, column] = value
    return x


FAULTY = {
    "one axis": (X[:, 0], r"shape \(40,\), expected \(n, d\)"),
    "three axes": (X[None], r"shape \(1, 40, 3\)"),
    "no columns": (X[:, :0], r"shape \(40, 0\)"),
    "few rows": (X[:19], "has 19 rows, expected at least 20"),
    "no rows": (X[:0], "has 0 rows"),
    "words": (X.astype(str), "dtype <U"),
    "complex": (X + 1j, "dtype complex128"),
    "NaN": (with_value(4, 1, np.nan), r"1 of 40 rows .*first row 5, column 'x1'"),
    "infinite": (with_value(4, 2, -np.inf), "1 of 40 rows"),
    "too large for floats": (with_value(4, 2, 1e39), "1 of 40 rows"),
    "constant": (np.where([True, False, True], X, 7.0), "column 'x1', is constant"),
    "far off": (X + np.array([0, 1e12, 0]), "column 'x1', is constant or varies by"),
    "objects": (np.array([[1, {}]] * 40, dtype=object), "dtype object"),
}


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_an_array_that_holds_no_points_is_one_sentence(tmp_path, name, kind):
    array, word = FAULTY[name]
    path = tmp_path / f"p.{kind}"
    if kind == "npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x=array)
    with pytest.raises(DataError, match=word) as error:
        load_points(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty line"),
        ("a,b\n", "has no rows"),
        ("a,b\n\n \n", "has no rows"),
        ("1,a\n" + "1,2\n" * 30, "line 1, has 1 numbers in 2 columns"),
        ("a,b,c\n" + "1,2\n3,4\n" * 30, "3 names and 2 columns"),
        ("a,b\n" + "1,2\n" * 30 + "1,x\n", "could not convert string 'x'"),
        ("a,b\n" + "1,2\n" * 30 + "1,\n", "could not convert"),
        ("a,b\n" + "1,2\n" * 30 + "1,2,3\n", "number of columns changed"),
        ("a,b\n" + "1,2\n" * 5, "has 5 rows"),
        ("a,b\n" + "1,2\n" * 30, "column 'a', is constant"),
        ("a,b\n" + "1,2\n2,nan\n" * 30, "30 of 60 rows"),
    ],
)
def test_a_text_that_holds_no_points_is_one_sentence(tmp_path, text, word):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=word) as error:
        load_points(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\1\0", b"\xff\xfe" + bytes(99)])
def test_damaged_bytes_are_one_sentence(tmp_path, kind, content):
    path = tmp_path / f"p.{kind}"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_points(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["npy", "named npz"])
def test_a_file_that_was_cut_off_is_one_sentence(file, kind):
    path = file(kind)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=str(path)):
        load_points(path)


def test_a_path_that_is_none_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_points(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is a folder"):
        load_points(tmp_path)
    (tmp_path / "p.txt").write_text("1 2")
    with pytest.raises(DataError, match=r"ends in '\.txt'"):
        load_points(tmp_path / "p.txt")


def test_several_arrays_need_a_name_and_test_points_the_same_columns(tmp_path):
    np.savez(tmp_path / "p.npz", a=X, b=X)
    with pytest.raises(DataError, match="2 arrays of points among"):
        load_points(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", a=np.arange(3))
    with pytest.raises(DataError, match="0 arrays of points among"):
        load_points(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", x=X, x_test=X[:, :2])
    with pytest.raises(DataError, match="'x_test', has 2 columns, expected 3"):
        load_points(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", x=X, x_test=with_value(0, 0, np.nan))
    with pytest.raises(DataError, match=r"'x_test', has 1 of 40 rows"):
        load_points(tmp_path / "p.npz")


@pytest.mark.parametrize("kind", ["npy", "named npz", "csv"])
def test_what_is_too_large_is_refused_before_it_is_read(file, kind, monkeypatch):
    path = file(kind)
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    for reader in ("loadtxt",):
        monkeypatch.setattr(np, reader, lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DataError, match="are free: take fewer rows"):
        load_points(path)
