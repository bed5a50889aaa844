"""What stands between the network and the page, part by part."""

import asyncio
import io
import json

import numpy as np
import pytest
from break_page import bomb, picture
from PIL import Image, ImageFile

from stablerep_hf.errors import InputError
from stablerep_hf.space.guard import Guard
from stablerep_hf.space.pictures import decode_picture, read_picture, shown_picture


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_are_taken(kind):
    taken = decode_picture(picture(kind=kind))
    assert (taken.mode, taken.size) == ("RGB", (64, 64))
    assert np.abs(np.asarray(taken)[0, 0].astype(int) - [255, 0, 0]).max() < 6


def test_what_is_transparent_is_white():
    assert decode_picture(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0])
    assert decode_picture(encoded(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_a_camera_s_orientation_and_an_animation_s_first_frame():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode_picture(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (20, 40)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(moving).getpixel((0, 0))[0] > 200


def test_limits_are_kept_before_anything_is_decoded(monkeypatch):
    hostile = [
        (bomb(), "million pixels"),
        (bomb(20_000, 2_000), "million pixels"),
        (picture(kind="TIFF"), "is no PNG"),
        (b"<svg/>", "is no PNG"),
        (b"", "empty"),
        (bytes(1001), "0.001 MB"),
    ]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    for content, says in hostile:
        with pytest.raises(InputError, match=says):
            decode_picture(content, most_bytes=1000 if len(content) == 1001 else 5_000_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_cut_off_anywhere_is_a_sentence(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    content = encoded(noise, kind)
    for end in range(1, len(content) - 2, max(1, len(content) // 40)):
        try:
            decode_picture(content[:end])
        except InputError:
            continue  # any other exception fails; some formats bear a loss at the very end


def test_a_camera_s_record_that_is_damaged_is_a_sentence():
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "words"
    record = exif.tobytes().replace(b"\x01\x31", b"\x01\x03")  # the words under a tag of numbers: a struct.error
    with pytest.raises(InputError, match="damaged"):
        decode_picture(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=record))


def test_only_uploads_are_opened(tmp_path):
    uploads, secret = tmp_path / "uploads", tmp_path / "secret.png"
    (uploads / "hash").mkdir(parents=True)
    secret.write_bytes(picture())
    good = uploads / "hash" / "picture.png"
    good.write_bytes(picture())
    (uploads / "link.png").symlink_to(secret)
    (uploads / "folder.png").mkdir()
    assert read_picture(str(good), uploads).size == (64, 64)
    for path in (
        str(secret), f"{uploads}/../secret.png", f"{uploads}/hash/../../secret.png", str(uploads / "link.png"),
        str(uploads / "folder.png"), str(uploads / "gone.png"), "secret.png", "", "x\0", None, 7, ["x"],
    ):  # fmt: skip
        with pytest.raises(InputError):
            read_picture(path, uploads)


def test_what_is_shown_is_small():
    small = picture((200, 100))
    assert shown_picture(small) == (small, "image/png")
    content, kind = shown_picture(picture((2000, 1000)))
    assert kind == "image/webp"
    assert Image.open(io.BytesIO(content)).size == (256, 128)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content, _ = shown_picture(encoded(Image.new("RGB", (600, 300)), "JPEG", exif=exif))
    assert Image.open(io.BytesIO(content)).size == (128, 256)
    content, _ = shown_picture(encoded(Image.new("RGBA", (600, 300), (0, 0, 0, 0))))
    assert Image.open(io.BytesIO(content)).getpixel((0, 0)) == (255, 255, 255), "on white, as the encoder sees it"


# ---------------------------------------------------------------- the guard


def ask(
    guard,
    path="/gradio_api/queue/join",
    body=b"{}",
    method="POST",
    client="1.1.1.1",
    headers=(),
    parts=1,
    root_path="",
):
    """Status of one request: 200 where it is passed on whole."""
    sent = []
    size = -(-len(body) // parts) or 1
    pieces = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    waiting = [
        {"type": "http.request", "body": piece, "more_body": number + 1 < len(pieces)}
        for number, piece in enumerate(pieces)
    ]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "client": (client, 1), "headers": list(headers)}
    scope["root_path"] = root_path
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


def guarded(tmp_path, requests_per_minute=1000, behind_proxy=False):
    async def application(scope, receive, send):
        if scope["method"] == "POST":
            message = await receive()
            scope["app"].append(message["body"])
            assert not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    passed = []

    async def recording(scope, receive, send):
        await application({**scope, "app": passed}, receive, send)

    guard = Guard(
        recording, uploads=str(tmp_path), most_upload=100_000, requests_per_minute=requests_per_minute,
        behind_proxy=behind_proxy,
    )  # fmt: skip
    return guard, passed


def test_what_is_fine_passes_whole_and_unchanged(tmp_path):
    guard, passed = guarded(tmp_path)
    named = json.dumps({"data": [{"path": f"{tmp_path}/hash/a.png"}, "text", None]}).encode()
    assert ask(guard, body=named, parts=3) == 200
    assert ask(guard, "/gradio_api/upload", b"x" * 90_000, parts=4) == 200
    assert passed == [named, b"x" * 90_000]
    assert ask(guard, "/", method="GET") == 200


def test_a_request_that_is_too_long_is_refused_before_it_has_come(tmp_path):
    guard, passed = guarded(tmp_path)
    assert ask(guard, body=b'"' + b"x" * 70_000 + b'"', parts=10) == 413
    assert ask(guard, "/gradio_api/upload", b"x" * 120_000, parts=10) == 413
    assert not passed


@pytest.mark.parametrize(
    "data",
    [
        {"path": "/etc/passwd"},
        [[{"a": {"path": "http://example.com/x"}}]],
        {"path": "UPLOADS/../x"},
        {"path": "relative"},
        {"path": ["UPLOADS/x"]},
        {"path": "UPLOADS/x\0"},
    ],
)
def test_a_path_that_is_no_upload_is_refused_wherever_it_stands(tmp_path, data):
    guard, passed = guarded(tmp_path)
    body = json.dumps(data).replace("UPLOADS", str(tmp_path)).encode()
    assert ask(guard, body=body) == 400
    assert ask(guard, "/gradio_api/call/search_by_text", body=body) == 400
    assert not passed


def test_a_link_out_of_the_uploads_is_refused(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link").symlink_to("/etc")
    guard, _ = guarded(tmp_path / "uploads")
    assert ask(guard, body=json.dumps({"path": f"{tmp_path}/uploads/link/passwd"}).encode()) == 400


def test_visitors_have_a_rate_each(tmp_path):
    guard, _ = guarded(tmp_path, requests_per_minute=3)
    assert [ask(guard) for _ in range(5)] == [200] * 3 + [429] * 2
    assert ask(guard, client="2.2.2.2") == 200
    assert ask(guard, method="GET", path="/") == 200
    forged = [(b"x-forwarded-for", b"9.9.9.9")]
    assert ask(guard, headers=forged) == 429, "a header is not believed unless a proxy sets it"
    behind, _ = guarded(tmp_path, requests_per_minute=1, behind_proxy=True)
    first, second = ([(b"x-forwarded-for", address)] for address in (b"9.9.9.9, 1.1.1.1", b"8.8.8.8"))
    assert [ask(behind, headers=first), ask(behind, headers=second), ask(behind, headers=first)] == [200, 200, 429]


def test_reads_have_a_rate_that_many_page_loads_keep(tmp_path):
    guard, _ = guarded(tmp_path, requests_per_minute=3)
    assert [ask(guard, "/", method="GET") for _ in range(92)] == [200] * 90 + [429] * 2
    assert ask(guard, "/closed", method="GET") == 429, "what is refused counts too"
    assert ask(guard) == 200, "searches are counted apart"
    assert ask(guard, "/", method="GET", client="2.2.2.2") == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=http://x"),
        ("GET", "/gradio_api/file=UPLOADS/../x"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file="),
        ("HEAD", "/gradio_api/file=UPLOADS/x.png"),
        ("GET", "/gradio_api/file/http://x"),
        ("GET", "/gradio_api/file/UPLOADS/x.png"),
        ("GET", "/GRADIO_API/info"),
        ("GET", "//gradio_api/info"),
        ("GET", "/gradio_api//info"),
        ("GET", "/x/../gradio_api/info"),
        ("GET", "/./config"),
        ("GET", "/config/"),
        ("GET", "/gradio_api/proxy=http://x"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/stream/x"),
        ("GET", "/gradio_api/run-history/buckets"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/upload/"),
        ("POST", "/"),
        ("DELETE", "/"),
    ],
)
@pytest.mark.parametrize("root", ["", "/base"])
def test_what_nobody_opened_is_closed(tmp_path, method, path, root):
    guard, passed = guarded(tmp_path)
    path = path.replace("UPLOADS", str(tmp_path))
    assert ask(guard, root + path, method=method, root_path=root) == 403
    assert not passed
    assert ask(guard, f"{root}/gradio_api/file={tmp_path}/x.png", method="GET", root_path=root) == 200
    assert ask(guard, f"{root}/config", method="GET", root_path=root) == 200


def test_there_are_no_websockets(tmp_path):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(guarded(tmp_path)[0]({"type": "websocket", "path": "/"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
