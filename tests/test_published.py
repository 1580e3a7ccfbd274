"Published sets: what is brought is whole or not there, whatever the server does"
import hashlib, json, os, subprocess, sys, threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pytest
from hrtem_seg.data import published as module
from hrtem_seg.data.published import (CATALOGUE, TABLE, Patience, PublishedFile, PublishedSet, as_condition,
                                      as_options, bring_images, check_file, check_room, download, dryad_files, fetch_file,
                                      file_sums, local_images, published, raw_files, read_metadata, select_images)

BODY = np.random.default_rng(0).bytes(50_000)
QUICK = Patience(tries=3, back_off=0., timeout=5.)

class Server:
    "A server whose answers are a list of functions of the handler, the last of which stays"
    def __init__(self):
        outer = self
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_GET(self):
                outer.asked.append(dict(self.headers) | {'path': self.path})
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                answer(self)
        self.asked, self.answers = [], []
        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()

def whole(h, body=BODY, upto=None, tag='"1"', kind='application/octet-stream', ranges=True):
    span = h.headers.get('Range') if ranges else None
    if span and h.headers.get('If-Range') != tag: span = None
    first = int(span[6:-1]) if span else 0
    h.send_response(206 if span else 200)
    h.send_header('Content-Length', str(len(body) - first)), h.send_header('Content-Type', kind)
    if tag: h.send_header('ETag', tag)
    if span: h.send_header('Content-Range', f'bytes {first}-{len(body) - 1}/{len(body)}')
    h.end_headers()
    h.wfile.write(body[first:][:upto])

def refuse(code, **headers):
    def answer(h):
        h.send_response(code)
        for k, v in headers.items(): h.send_header(k.replace('_', '-'), v)
        h.send_header('Content-Length', '0')
        h.end_headers()
    return answer

def file_at(server, **more): return PublishedFile('a.h5', f'{server.url}/a.h5', len(BODY), hashlib.sha256(BODY).hexdigest(), **more)

def left(folder): return [f.name for f in folder.iterdir() if f.name != module.LOCKS]

@pytest.mark.parametrize('first', [refuse(429, Retry_After='0'), refuse(503), refuse(500), lambda h: whole(h, upto=100),
                                   lambda h: h.connection.close()])
def test_what_is_busy_or_breaks_off_is_asked_again(server, tmp_path, first):
    server.answers = [first, whole]
    assert fetch_file(file_at(server), tmp_path, patience=QUICK).read_bytes() == BODY
    assert len(server.asked) == 2 and left(tmp_path) == ['a.h5']

def test_it_goes_on_where_it_broke_off_also_in_another_call(server, tmp_path):
    server.answers = [lambda h: whole(h, upto=20_000), refuse(503)]
    with pytest.raises(ConnectionError, match='what has arrived is kept'): fetch_file(file_at(server), tmp_path, patience=QUICK)
    assert (tmp_path/'a.h5.part').stat().st_size == 20_000 and not (tmp_path/'a.h5').exists()
    server.answers = [whole]
    assert fetch_file(file_at(server), tmp_path, patience=QUICK).read_bytes() == BODY
    assert server.asked[-1]['Range'] == 'bytes=20000-'

def test_a_file_that_changed_meanwhile_is_begun_again(server, tmp_path):
    old = bytes(len(BODY))
    server.answers = [lambda h: whole(h, old, 20_000, '"0"'), whole]
    assert fetch_file(file_at(server), tmp_path, patience=QUICK).read_bytes() == BODY

def test_a_server_that_knows_no_ranges_sends_all_again(server, tmp_path):
    server.answers = [lambda h: whole(h, upto=20_000, ranges=False), lambda h: whole(h, ranges=False)]
    assert fetch_file(file_at(server), tmp_path, patience=QUICK).read_bytes() == BODY

@pytest.mark.parametrize('code, error, why', [(404, FileNotFoundError, 'is not there'), (401, PermissionError, 'MY_TOKEN'),
                                              (403, PermissionError, 'MY_TOKEN'), (400, OSError, '400')])
def test_what_no_waiting_changes_is_not_asked_again(server, tmp_path, code, error, why):
    server.answers = [refuse(code)]
    with pytest.raises(error, match=why): fetch_file(file_at(server), tmp_path, token_name='MY_TOKEN', patience=QUICK)
    assert len(server.asked) == 1 and left(tmp_path) == []

@pytest.mark.parametrize('body, kind', [(BODY[:-1] + b'x', 'application/octet-stream'), (BODY[:-5], 'application/octet-stream'),
                                        (BODY + b'more', 'application/octet-stream'), (b'<html>sorry', 'text/html')])
def test_what_is_not_the_published_file_is_never_taken_for_it(server, tmp_path, body, kind):
    server.answers = [lambda h: whole(h, body, kind=kind)]
    with pytest.raises(ValueError, match='a.h5'): fetch_file(file_at(server), tmp_path, patience=QUICK)
    assert left(tmp_path) == []

def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path/'a.h5.part').write_bytes(BODY*2)
    (tmp_path/'a.h5.part.json').write_text('{"tag": "\\"1\\""}')
    server.answers = [refuse(416), whole]
    assert fetch_file(file_at(server), tmp_path, patience=QUICK).read_bytes() == BODY

def test_the_token_is_from_the_environment_and_does_not_follow_a_redirect(server, tmp_path, monkeypatch):
    other = Server()
    other.answers = [whole]
    server.answers = [refuse(302, Location=f'{other.url}/elsewhere')]
    monkeypatch.setenv('MY_TOKEN', 'secret')
    download([file_at(server)], tmp_path, token_name='MY_TOKEN', patience=QUICK, show=False)
    other.http.shutdown()
    assert server.asked[0]['Authorization'] == 'Bearer secret' and 'Authorization' not in other.asked[0]
    assert 'secret' not in ''.join(f.read_text(errors='ignore') for f in tmp_path.glob('*.json'))

def test_one_file_that_cannot_be_had_does_not_keep_the_others_away(server, tmp_path):
    server.answers = [lambda h: refuse(404)(h) if h.path == '/lost' else whole(h)]
    lost = replace(file_at(server), name='lost.h5', url=f'{server.url}/lost')
    with pytest.raises(ConnectionError, match='1 of 2 files could not be had.*lost.h5'):
        download([lost, file_at(server)], tmp_path, patience=QUICK, show=False)
    assert (tmp_path/'a.h5').read_bytes() == BODY

def test_a_file_that_was_damaged_on_the_disk_is_brought_again(server, tmp_path):
    server.answers = [whole]
    download([file_at(server)], tmp_path, patience=QUICK, show=False)
    (tmp_path/'a.h5').write_bytes(BODY[:-1] + b'x')
    download([file_at(server)], tmp_path, patience=QUICK, show=False)
    assert (tmp_path/'a.h5').read_bytes() != BODY, 'of the same length: only a look at every byte shows it'
    download([file_at(server)], tmp_path, again=True, patience=QUICK, show=False)
    assert (tmp_path/'a.h5').read_bytes() == BODY

LONG = np.random.default_rng(1).bytes(1_200_000)   # more than is written at once

def begin(h, upto, tag='"1"'):
    "Say that all will come, and send a part of it"
    h.send_response(200)
    for name, value in (('Content-Length', str(len(LONG))), ('ETag', tag)): h.send_header(name, value)
    h.end_headers()
    h.wfile.write(LONG[:upto])
    h.wfile.flush()

def test_two_that_want_the_same_file_do_not_write_into_each_others(server, tmp_path):
    begun, second = threading.Event(), threading.Event()
    def slow(h):
        begin(h, 900_000)
        begun.set()
        second.wait(2)
        h.wfile.write(LONG[900_000:])
    def break_off(h):
        begin(h, 300_000)
        second.set()
    server.answers = [slow, break_off]
    file = PublishedFile('a.h5', f'{server.url}/a.h5')
    def bring():
        try: download([file], tmp_path, patience=replace(QUICK, tries=1), show=False)
        except ConnectionError: pass   # of the second, where it does not wait
    both = [threading.Thread(target=bring) for _ in range(2)]
    both[0].start()
    assert begun.wait(20)
    both[1].start()
    for one in both: one.join(20)
    assert (tmp_path/'a.h5').read_bytes() == LONG
    assert len(server.asked) == 1, 'who waited finds it there'
    assert sorted(left(tmp_path)) == ['.downloaded.json.lock', 'a.h5', 'downloaded.json']

HOLD = """import sys, time
from hrtem_seg.core.files import folder_lock
with folder_lock(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""

def test_a_process_that_is_killed_at_it_holds_nobody_up(server, tmp_path):
    server.answers = [whole]
    lock = tmp_path/module.LOCKS/'a.h5'
    holder = subprocess.Popen([sys.executable, '-c', HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == 'held\n'
    waiting = threading.Thread(target=fetch_file, args=[file_at(server), tmp_path], kwargs=dict(patience=QUICK))
    waiting.start()
    waiting.join(.5)
    assert waiting.is_alive() and server.asked == []
    holder.kill()
    holder.wait()
    waiting.join(20)
    assert (tmp_path/'a.h5').read_bytes() == BODY

def test_what_another_process_brought_meanwhile_stays_noted(server, tmp_path):
    other = replace(file_at(server), name='b.h5', url=f'{server.url}/b.h5')
    def answer(h):
        if h.path == '/a.h5': download([other], tmp_path, patience=QUICK, show=False)
        whole(h)
    server.answers = [answer]
    download([file_at(server)], tmp_path, patience=QUICK, show=False)
    assert sorted(module._there(tmp_path)) == ['a.h5', 'b.h5']

def test_the_disk_is_looked_at_first(server, tmp_path):
    with pytest.raises(OSError, match='are free'): download([replace(file_at(server), bytes=10**18)], tmp_path, show=False)
    assert server.asked == []

def test_the_catalogue_says_what_it_must():
    for s in CATALOGUE.values():
        assert s.doi.startswith('10.') and s.licence and s.labels and s.pixel
        assert s.files or s.where or s.note
        assert not s.token or s.token.isupper()
    with pytest.raises(ValueError, match='team05-raw'): published('team')

@pytest.mark.parametrize('name', ['/etc/passwd', '../x', 'a/../../x', 'c:/x', ''])
def test_a_name_never_leaves_the_folder(name):
    with pytest.raises(ValueError, match='inside the folder'): PublishedFile(name, 'http://x')

def test_the_whole_published_table_reads(project):
    file = project/'../shared/real/team05/Dataset_metadata.csv'
    if not file.is_file(): pytest.skip(f'{file} is not there')
    table = read_metadata(file)
    silver = select_images(table, material='Ag', pixel=(.19, .21), dose=(403., 443.))
    assert (len(table), len(silver)) == (407, 14)
    assert len({f.name for f in raw_files(table)}) == 814, 'names are unique with their folders'

HEAD = ('File name,Date,Material,Nanoparticle Size (nm),Nanoparticle Shape,Support,Instrument,Dosage (e/A2),'
        'Pixel Scale (nm),Folder\n')
ROWS = 'a.dm3,1,Au,2.2,Sphere,UT Carbon,Team05,423,0.033,one day/on C\nb.dm3,1,Au,5,Sphere,UT Carbon,Team05,80,0.02,two\n'

def by_path(content):
    def answer(h):
        name = h.path.rsplit('/', 1)[-1]
        whole(h, content[name]) if name in content else refuse(404)(h)
    return answer

def test_images_of_a_condition_are_brought_and_found_again(server, tmp_path, monkeypatch):
    table = (HEAD + ROWS).encode()
    server.answers = [by_path({TABLE: table, 'a.dm3': BODY, 'a_label.png': BODY[:99]})]
    raw = replace(CATALOGUE['team05-raw'], files=(PublishedFile(TABLE, f'{server.url}/{TABLE}'),))
    monkeypatch.setitem(module.CATALOGUE, 'team05-raw', raw)
    monkeypatch.setattr(module, 'raw_files', partial(raw_files, base=server.url))
    with pytest.raises(FileNotFoundError, match=r"holds no Dataset_metadata.csv.*hrtem-seg download team05-raw --out .* --where radius=11.0"):
        local_images(tmp_path, radius=11.)
    assert len(bring_images(tmp_path, patience=QUICK, show=False, radius=11., pixel=.33)) == 1
    assert local_images(tmp_path, radius=11.).file.tolist() == ['a.dm3']
    assert (tmp_path/'one day/on C/Labels/a_label.png').read_bytes() == BODY[:99]
    before = len(server.asked)
    bring_images(tmp_path, patience=QUICK, show=False, radius=11.)
    assert len(server.asked) == before, 'what is there is not asked for again'
    with pytest.raises(ConnectionError, match='2 of 2 files could not be had'): bring_images(tmp_path, patience=QUICK, show=False, dose=80.)
    with pytest.raises(FileNotFoundError, match='2 of 2 files of the raw set are not in .*two/b.dm3.*about 0.1 GB'): local_images(tmp_path, dose=80.)

def test_files_are_known_by_their_content(tmp_path):
    (tmp_path/'a').write_bytes(b'one')
    first = file_sums(tmp_path, ['a'])
    assert first == {'a': hashlib.sha256(b'one').hexdigest()}
    (tmp_path/'a').write_bytes(b'two')
    assert file_sums(tmp_path, ['a']) != first

def test_a_sum_that_was_noted_counts_while_the_file_has_its_size_and_time(server, tmp_path, monkeypatch):
    server.answers = [whole]
    download([file_at(server)], tmp_path, patience=QUICK, show=False)
    first = {'a.h5': hashlib.sha256(BODY).hexdigest()}
    with monkeypatch.context() as m:
        m.setattr(module, '_digests', lambda path: pytest.fail('it is read again'))
        assert file_sums(tmp_path, ['a.h5']) == first
    edited = BODY[:-1] + bytes([BODY[-1] ^ 1])
    (tmp_path/'a.h5').write_bytes(edited)
    later = (tmp_path/'a.h5').stat().st_mtime_ns + 1_000_000_000   # some disks know whole seconds only
    os.utime(tmp_path/'a.h5', ns=(later, later))
    assert file_sums(tmp_path, ['a.h5']) == {'a.h5': hashlib.sha256(edited).hexdigest()}

def test_a_sum_that_was_noted_without_a_time_is_not_trusted(server, tmp_path):
    server.answers = [whole]
    download([file_at(server)], tmp_path, patience=QUICK, show=False)
    record = json.loads((tmp_path/module.RECORD).read_text(encoding='utf-8'))
    record['files']['a.h5'].pop('mtime_ns', None)
    record['files']['a.h5']['sha256'] = '0'*64
    (tmp_path/module.RECORD).write_text(json.dumps(record), encoding='utf-8')
    assert file_sums(tmp_path, ['a.h5']) == {'a.h5': hashlib.sha256(BODY).hexdigest()}

@pytest.mark.parametrize('conditions', [dict(material='Au', dose=423.), dict(radius=(11., 25.)), dict(pixel=[.2, .26], session='2021 on C/x')])
def test_conditions_survive_the_command_line(conditions):
    import shlex
    words = shlex.split(as_options(conditions))
    assert dict(map(as_condition, words[1::2])) == conditions and set(words[::2]) == {'--where'}

@pytest.mark.parametrize('text', ['dose', '=3', 'dose='])
def test_a_condition_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match='NAME=VALUE'): as_condition(text)
