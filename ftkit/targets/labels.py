"""The label column of a split: what kind of labels it has, which ones, how often, and where.

Works on whole Arrow columns. Imports `errors` and, when called, pyarrow; tasks call it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ftkit.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["auto", "single", "multi", "regression"]
"""One label of several, several at once, or a number; "auto" is read off the column."""


def _label_feature(rows: Dataset) -> tuple[Any, bool]:
    """The feature of one label, and whether a row has a list of them."""
    feature = rows.features["label"]
    inner = getattr(feature, "feature", None)
    return (feature, False) if inner is None else (inner, True)


def kind_of(rows: Dataset) -> Kind:
    """Lists are multi-label, floats are regression, all else is one label of several."""
    feature, is_list = _label_feature(rows)
    if is_list:
        return "multi"
    return "regression" if str(getattr(feature, "dtype", "")).startswith("float") else "single"


def _label_array(split: str, rows: Dataset) -> Any:
    """The label column as one Arrow array; raises DataError where a row has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = rows.select_columns("label").with_format("arrow")[:]["label"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    if hasattr(rows.features["label"], "names"):
        # A ClassLabel of -1 is how public test splits mark a row without a label.
        column = pc.if_else(pc.less(column, 0), None, column)
    if column.null_count:
        raise DataError(
            f"the label is missing here and in {column.null_count:,} row(s) in all",
            remedy="Fill it in, drop these rows, or leave the split out.",
            split=split,
            row=pc.index(pc.is_null(column), True).as_py() + 1,
            column="label",
        )
    return column


def count_labels(split: str, rows: Dataset, kind: Kind) -> dict[str, int]:
    """How often each label occurs, in the order of ClassLabel's names or else sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _label_array(split, rows)
    feature, is_list = _label_feature(rows)
    if is_list != (kind == "multi"):
        found = "a list of labels" if is_list else "one label a row"
        raise DataError(
            f'{found} for a task of kind "{kind}"',
            remedy='Leave `kind` as "auto", or change the column.',
            split=split,
            column="label",
        )
    names = getattr(feature, "names", None)
    values = pc.list_flatten(column) if is_list else column
    if is_list and are_flags(column):
        raise DataError(f"found {FLAGS}", remedy=NAME_FLAGS, split=split, row=1, column="label")
    is_missing = names is not None and pc.any(pc.less(values, 0)).as_py()
    if pa.types.is_floating(values.type):
        if not is_list:
            check_numbers(split, rows)
        is_missing = pc.any(pc.is_nan(values)).as_py()
    if values.null_count or pa.types.is_nested(values.type) or is_missing:
        raise DataError(
            "a list of labels holds something that is no label",
            remedy="Give lists of names, such as ['billing', 'urgent'].",
            split=split,
            column="label",
        )
    if is_list:
        # A label that a row names twice counts once.
        pairs = pa.table({"row": pc.list_parent_indices(column), "label": values})
        values = pairs.group_by(["row", "label"]).aggregate([])["label"]
    counted = pc.value_counts(values)
    counts = dict(
        zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    )
    if names is not None:
        return {name: counts.get(i, 0) for i, name in enumerate(names)}
    return {str(value): counts[value] for value in sorted(counts)}


FLAGS = "a 0 or 1 for each label, in a list, where the names of labels belong"
NAME_FLAGS = (
    "Give lists of names, such as ['billing', 'urgent'], or a column of 0 and 1 for each label: "
    'columns={"label": ["billing", "urgent"]}.'
)


def are_flags(lists: Any) -> bool:
    """Whether an Arrow array of lists holds a 0 or 1 for each label, as transformers reads them.

    It does where all are of one length and numbers 0 and 1 alone, some of them twice in a row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, lengths = lists.type.value_type, pc.unique(pc.list_value_length(lists).drop_null())
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    size = lengths[0].as_py() if len(lengths) == 1 else 0
    if not is_number or size < 2:
        return False
    flags = pc.list_flatten(lists).cast(pa.float64())
    if not pc.all(pc.is_in(flags, pa.array([0.0, 1.0]))).as_py():
        return False
    ones = flags.to_numpy(zero_copy_only=False).reshape(-1, size).sum(1)
    return size > 2 or bool((ones != 1).any())


def check_numbers(split: str, rows: Dataset) -> None:
    """Raise DataError for a label that is no finite number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _label_array(split, rows)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise DataError(
            f"regression needs numbers, found {column.type}",
            remedy="Give numbers, or leave `kind` out for classes.",
            split=split,
            column="label",
        )
    finite = pc.is_finite(column)
    if not pc.all(finite).as_py():
        row = pc.index(finite, False).as_py()
        raise DataError(
            f"the label is {column[row].as_py()}",
            remedy="Fill it in, or drop the row.",
            split=split,
            row=row + 1,
            column="label",
        )


def first_row(rows: Dataset, name: str) -> int:
    """Number of the first row that has the label, from 1."""
    feature, is_list = _label_feature(rows)
    names = getattr(feature, "names", None)
    for i, label in enumerate(rows["label"]):
        found = label if is_list else [label]
        if name in [names[each] if names is not None else str(each) for each in found]:
            return i + 1
    raise ValueError(name)
