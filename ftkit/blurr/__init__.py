"""The bridge to Blurr: `import ftkit.blurr`, and Blurr 1.0.5 runs on today's stack.

    import ftkit.blurr
    from blurr.text.data.all import *
    from blurr.text.modeling.all import *

Its DataBlocks, Blearners and metrics work as its notebooks show them. Blurr's metadata refuses
torch 2: `pip install --no-deps ohmeow-blurr==1.0.5`. It needs seqeval beside what ftkit has.
`learner(dls, hf_model)` takes such a DataBlock under ftkit.

Where Blurr's own result is wrong, the bridge mends it, and says so once, by an FtkitWarning.
A leaf: nothing else in ftkit imports it.

    names       what Blurr's imports ask for and today's libraries no longer have
    mends       what ends in an error, made to work as it says
    results     what is computed or written wrongly, made right; answers: that of QA
    datablocks  `learner`
"""

from ftkit.blurr.names import import_blurr

import_blurr()

# Only now can these be imported, which speak of Blurr's modules.
from ftkit.blurr.answers import ANSWERS  # noqa: E402
from ftkit.blurr.datablocks import learner  # noqa: E402
from ftkit.blurr.mends import MENDS  # noqa: E402
from ftkit.blurr.results import RESULTS  # noqa: E402

for _mend in (*MENDS, *RESULTS, *ANSWERS):
    _mend()

__all__ = ["learner"]
