"""The name of a program's main file if the caller gives none."""

import pytest

from appliance.sandbox.languages.entrypoints import java_main_class, main_file_name

MAIN = "public static void main(String[] args) { }"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (f"class Main {{ {MAIN} }}", "Main.java"),
        (f"public class Hello {{ {MAIN} }}", "Hello.java"),
        (f"import x.Y;\n\npublic final class Über {{\n  {MAIN}\n}}", "Über.java"),
        (f"class Helper {{ }}\nclass Program {{\n  {MAIN}\n}}\nclass Last {{ }}", "Program.java"),
        (f"class Outer {{\n  static class Inner {{ }}\n  {MAIN}\n}}", "Outer.java"),
        (f"record Point(int x) {{ }}\npublic enum Way {{ A; {MAIN} }}", "Way.java"),
        (f"package a.b; public class One {{ {MAIN} }}", "One.java"),
        ("class NoMain { }", "Main.java"),
        ("// public class Said\nint x;", "Main.java"),
        (f"public class {'x' * 300} {{ {MAIN} }}", "Main.java"),
        ("", "Main.java"),
        ("\xff\x00((((", "Main.java"),
    ],
)
def test_file_when_it_is_java_then_named_after_its_class(source: str, name: str) -> None:
    assert main_file_name("java", "Main.java", source.encode("utf-8")) == name


def test_file_when_it_is_another_language_then_the_usual_name() -> None:
    assert main_file_name("python", "main.py", b"public class A { }") == "main.py"


@pytest.mark.parametrize("line", ["public\n", "\n", " ", "final ", "class ", "void main "])
def test_file_when_the_source_is_hostile_then_named_all_the_same(line: str) -> None:
    assert main_file_name("java", "Main.java", line.encode() * 500_000) in (
        "Main.java",
        "class.java",
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (f"public class Main {{ {MAIN} }}", "Main"),
        (f"class Other {{ }}\nclass Program {{\n  {MAIN}\n}}", "Program"),
        (f"class Program {{\n  {MAIN}\n}}\npublic class Helper {{ }}", "Program"),
        (f"public class Outer {{\n  static class Inner {{ }}\n  {MAIN}\n}}", "Outer"),
        (f"package a.b;\n\npublic class One {{ {MAIN} }}", "a.b.One"),
        (f"package a.b; public class One {{ {MAIN} }}", "a.b.One"),
        ("public class NoMain { }", "NoMain"),
        ("", "solution"),
    ],
)
def test_main_class_when_the_file_has_any_name_then_the_one_with_main(
    source: str, name: str
) -> None:
    """F4"""
    assert java_main_class(source.encode(), "solution") == name
