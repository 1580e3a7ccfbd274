"""What the package needs of the project outside a clone, and archives whose bytes depend on their content alone

The studies' notebooks and their numbers go into the wheel. SOURCE_DATE_EPOCH dates what is in wheel and sdist.
"""
import gzip, os, shutil, tarfile
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

WHOLE = ('nbs/studies', 'nbs/speed')   # folders of notebooks that commands run
EPOCH = int(os.environ.get('SOURCE_DATE_EPOCH', 315532800))   # s; 1980, where a zip file's time begins


class WithProject(build_py):
    "Copies notebooks and settings.ini to hrtem_seg/project, where `project_folder` finds them"
    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False): return   # a clone has them
        into = Path(self.build_lib)/'hrtem_seg'/'project'
        for folder in WHOLE:
            (into/folder).mkdir(parents=True, exist_ok=True)
            for f in sorted(Path(folder).iterdir()):
                if f.suffix in ('.ipynb', '.py'): shutil.copy(f, into/folder/f.name)
        shutil.copy('settings.ini', into/'settings.ini')


def undated(entry):
    "An entry of an archive without the marks of the machine"
    entry.mtime = EPOCH
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ''
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


class SameArchive(sdist):
    "Its files in order, without owners and times"
    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        name = f'{base_name}.tar.gz'
        files = sorted(Path(root_dir or '.', base_dir).rglob('*'))
        with open(name, 'wb') as raw, gzip.GzipFile('', 'wb', mtime=EPOCH, fileobj=raw) as packed:
            with tarfile.open(fileobj=packed, mode='w') as archive:
                for f in files: archive.add(f, Path(base_dir)/f.relative_to(Path(root_dir or '.', base_dir)), recursive=False, filter=undated)
        return name


setup(cmdclass={'build_py': WithProject, 'sdist': SameArchive})
