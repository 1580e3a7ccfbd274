"What the package needs of the project outside a clone: the studies' notebooks and their numbers go into the wheel"
import shutil
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

WHOLE = ('nbs/studies', 'nbs/speed')   # folders of notebooks that commands run


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


setup(cmdclass={'build_py': WithProject})
