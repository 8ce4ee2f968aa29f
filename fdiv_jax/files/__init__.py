"""Files: untrusted ones, read within bounds and named in every error message, and the cache."""

from fdiv_jax.files.caches import default_cache, keep_programs
from fdiv_jax.files.json_files import JsonMapping, JsonObject, parse_json, read_json
from fdiv_jax.files.links import check_no_links, open_own, refuse_links
from fdiv_jax.files.reading import check_regular, read_bytes, read_text
from fdiv_jax.files.wording import listed, one_line, shown

__all__ = [
    "JsonMapping",
    "JsonObject",
    "check_no_links",
    "check_regular",
    "default_cache",
    "keep_programs",
    "listed",
    "one_line",
    "open_own",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "refuse_links",
    "shown",
]
