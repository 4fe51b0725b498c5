"""QGIS Processing algorithm that segments a raster layer with `magnet segment` and loads the mask."""

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)


class MagnetSegment(QgsProcessingAlgorithm):
    """The algorithm "Segment with magnet" in the group "magnet" of the scripts."""

    def name(self):
        """Return the identifier of the algorithm."""
        return "magnet_segment"

    def displayName(self):
        """Return the name that QGIS displays."""
        return "Segment with magnet"

    def group(self):
        """Return the name of the group that QGIS displays."""
        return "magnet"

    def groupId(self):
        """Return the identifier of the group."""
        return "magnet"

    def createInstance(self):
        """Return a new instance, as QGIS needs one for each run."""
        return MagnetSegment()

    def initAlgorithm(self, configuration=None):
        """Declare the parameters of the algorithm."""
        self.addParameter(QgsProcessingParameterRasterLayer("INPUT", "Image"))
        self.addParameter(QgsProcessingParameterString("WEIGHTS", "Model bundle", "aerial"))
        self.addParameter(QgsProcessingParameterString("OPTIONS", "Further options", optional=True))
        self.addParameter(QgsProcessingParameterString("PROGRAM", "Program", "magnet"))
        self.addParameter(QgsProcessingParameterRasterDestination("OUTPUT", "Mask"))

    def processAlgorithm(self, parameters, context, feedback):
        """Run `magnet segment` on the layer, and return the path of the mask."""
        image = self.parameterAsRasterLayer(parameters, "INPUT", context).source()
        target = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        words = [self.parameterAsString(parameters, "PROGRAM", context), "segment", image]
        words += ["--weights", self.parameterAsString(parameters, "WEIGHTS", context)]
        words += shlex.split(self.parameterAsString(parameters, "OPTIONS", context))
        with tempfile.TemporaryDirectory(dir=Path(target).parent) as folder:
            words += ["-o", str(Path(folder, "mask.tif"))]
            feedback.pushCommandInfo(" ".join(words))
            try:
                run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            except OSError as error:
                raise QgsProcessingException(f"{words[0]} cannot be started ({error}): give its full path") from error
            for line in run.stdout:
                feedback.pushConsoleInfo(line.rstrip())
                if feedback.isCanceled():
                    run.terminate()
            if run.wait() != 0:
                raise QgsProcessingException(f"magnet ended with exit code {run.returncode}: see the lines above")
            shutil.move(Path(folder, "mask.tif"), target)
        return {"OUTPUT": target}
