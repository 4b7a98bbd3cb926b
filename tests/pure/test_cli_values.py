"""Values on the command line: ``--set``, JSON, text."""

import json
import math
import re
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.values import codec
from pybpfload.cli.assign import set_variable
from pybpfload.cli.failure import UsageError
from pybpfload.cli.values import plain, pretty

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(params=["bpfel", "bpfeb"])
def spec(request):
    return pybpfload.open(FIXTURES / request.param / "globals.bpf.o")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data_u32=7", 7),
        ("data_u32=0xffffffff", 0xFFFFFFFF),
        ("data_s32=-3", -3),
        ("data_u128=0x100000000000000000000000000000000", None),
        ("data_s128=-170141183460469231731687303715884105728", -(1 << 127)),
        ("data_bool=true", True),
        ("data_bool=Off", False),
        ("data_char=65", 65),
        ("data_text=a b=c", "a b=c"),
        ("data_text=", ""),
        ("data_bytes=1,0x02", b"\1\2\0\0\0"),
        ("data_bytes=aa:bb:cc:dd:ee", b"\xaa\xbb\xcc\xdd\xee"),
        ("data_array=1, 2,3", (1, 2, 3, 0)),
        ("data_matrix=1,2,3,4", ((1, 2, 3), (4, 0, 0))),
        ("data_color=GREEN", 2),
        ("data_color=4", 4),
        ("data_level=LOW", -1),
        ("data_level=-1", -1),
        ("data_wide=WIDE", 0x123456789ABCDEF0),
        ("data_double=1e3", 1000.0),
        ("rodata_u32=41", 41),
        ("rodata_text=changed", "changed"),
        ("custom_bss=5", 5),
    ],
)
def test_variables_are_set_by_their_type(spec, setting, value):
    if value is None:
        with pytest.raises(UsageError):
            set_variable(spec, setting)
        return
    set_variable(spec, setting)
    assert spec.variables[setting.partition("=")[0]].value == value


def test_members_of_structs(spec):
    set_variable(spec, "data_point.x=100")
    assert tuple(spec.variables["data_point"].value) == (100, -4)
    set_variable(spec, "data_record.color=RED")
    set_variable(spec, "data_record.low=9")
    set_variable(spec, "data_record.flag=false")
    set_variable(spec, "data_record.name=other")
    record = spec.variables["data_record"].value
    assert (record.color, record.low, record.flag, record.name) == (1, 9, False, "other")
    assert (record.tag, record.high, record.value) == (7, -3, 1 << 40)


def test_elements_of_arrays_and_members_in_them(spec):
    for setting in (
        "data_points[1].y=8",
        "data_matrix[0][2]=9",
        "data_bytes[0]=0xff",
        "data_record.corners[1].x=-1",
    ):
        set_variable(spec, setting)
    assert [tuple(point) for point in spec.variables["data_points"].value] == [(1, 2), (3, 8)]
    assert spec.variables["data_matrix"].value == ((1, -2, 9), (-4, 5, -6))
    assert spec.variables["data_bytes"].value == b"\xff\2\3\4\5"
    assert [tuple(p) for p in spec.variables["data_record"].value.corners] == [(1, 1), (-1, 9)]
    for setting, says in (
        ("data_points[2].x=1", "2 elements, so no [2]"),
        ("data_u32[0]=1", "no elements"),
        ("data_u32.x=1", "no members"),
        ("data_point.yy=1", "did you mean 'y'"),
        ("data_points[x]=1", "no variable 'data_points[x]'"),
        ("data_points[1=1", "no variable"),
        (f"data_points[{'9' * 5000}]=1", "no variable"),
        ("data_point..x=1", "no variable"),
    ):
        with pytest.raises(UsageError, match=re.escape(says)):
            set_variable(spec, setting)


def test_variables_of_functions_have_a_dot_in_their_name():
    spec = pybpfload.open(FIXTURES / "bpfel" / "perfbuf.bpf.o")
    name = next(name for name in spec.variables if "." in name)
    set_variable(spec, f"{name}=1")
    assert spec.variables[name].value == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data_u32", "expected NAME=VALUE"),
        ("data_u33=1", "did you mean 'data_u32'?"),
        ("=1", "there are: data_u8, "),
        ("data_u32=-1", "expected int from 0 to 4294967295, got -1"),
        ("data_u32=many", "expected int from 0 to 4294967295, got 'many'"),
        ("data_u32.x=1", "has no members, so no 'x'"),
        ("data_bool=2", "expected True or False"),
        ("data_text=12345678901234567", "at most 16 bytes"),
        ("data_bytes=1,2,3,4,5,6", "5 bytes"),
        ("data_bytes=1,300", "expected bytes"),
        ("data_array=1,2,3,4,5", "4 elements"),
        ("data_array=1,x", "'x'"),
        ("data_color=GREN", "enum color has no 'GREN', did you mean 'GREEN'?"),
        ("data_color=none", "enum color has no 'none'; it has RED, GREEN, BLUE"),
        ("data_double=wide", "float"),
        ("data_point=1,2", "set the members of struct point one by one, as .MEMBER: x, y"),
        ("data_point.z=1", "struct point has no member 'z'"),
        ("data_record.colour=RED", "did you mean 'color'?"),
        ("data_matrix=1,2,3,4,5,6,7", "2 elements"),
    ],
)
def test_what_does_not_fit_is_told(spec, setting, words):
    with pytest.raises(UsageError) as caught:
        set_variable(spec, setting)
    text = str(caught.value)
    assert text.startswith(f"--set {setting}: ")
    assert words in text


def test_kconfig_values_are_not_variables():
    spec = pybpfload.open(FIXTURES / "bpfel" / "kconfig.bpf.o")
    with pytest.raises(UsageError, match="no variable 'CONFIG_HZ'"):
        set_variable(spec, "CONFIG_HZ=100")


def event_codec():
    builder = BtfBuilder()
    number = builder.add_int("unsigned int", 4)
    char = builder.add_int("char", 1)
    byte = builder.add_int("unsigned char", 1)
    color = builder.add_enum("color", 4, [("RED", 1)])
    inner = builder.add_struct("inner", 4, [("x", number, 0)])
    outer = builder.add_struct(
        "outer",
        36,
        [
            ("n", number, 0),
            ("color", color, 32),
            ("text", builder.add_array(char, 8, number), 64),
            ("raw", builder.add_array(byte, 4, number), 128),
            ("inner", inner, 160),
            ("pair", builder.add_array(number, 2, number), 192),
            ("real", builder.add_float("float", 4), 256),
        ],
    )
    return codec(builder.btf(), outer)


def test_an_event_as_json_and_as_text():
    made = event_codec()
    event = made.decode(
        made.encode(
            {
                "n": 5,
                "color": 1,
                "text": 'a "b"',
                "raw": b"\1\2\3\4",
                "inner": {"x": 6},
                "pair": (7, 8),
                "real": 0.5,
            }
        )
    )
    expected = {
        "n": 5,
        "color": "RED",
        "text": 'a "b"',
        "raw": "01020304",
        "inner": {"x": 6},
        "pair": [7, 8],
        "real": 0.5,
    }
    assert json.loads(json.dumps(plain(event), allow_nan=False)) == expected
    line = 'n=5 color=RED text="a \\"b\\"" raw=01020304 inner={x=6} pair=[7, 8] real=0.5'
    assert pretty(event, top=True) == line
    assert pretty(event) == f"{{{line}}}"
    unknown = event._replace(color=9, real=math.inf, text="\x1b[31m")
    assert plain(unknown)["color"] == 9
    assert plain(unknown)["real"] == "inf"
    assert "color=9" in pretty(unknown)
    assert "\x1b" not in pretty(unknown)


def test_other_values():
    assert plain(b"\0\xff") == "00ff"
    assert plain(None) is None
    assert plain(True) is True
    assert pretty(True) == "true"
    assert pretty(b"\0\xff", top=True) == "00ff"
    assert plain(1 << 127) == 1 << 127
