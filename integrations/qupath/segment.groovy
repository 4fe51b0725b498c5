// Segments the open image with magnet and adds the regions of each class as annotations.
// For QuPath 0.5 or later: Automate > Script editor, then Run. QuPath waits until magnet has finished.
import static qupath.lib.scripting.QP.*

def magnet = 'magnet'      // the program, by its full path where QuPath does not find it
def options = []           // for example ['--weights', '/path/to/bundle']

def uri = getCurrentServer().getURIs().first()
if (uri.scheme != 'file')
    throw new IllegalArgumentException("magnet reads files, and this image lies at ${uri}")
def image = new File(uri.path)
def folder = File.createTempDir('magnet', '')
def mask = new File(folder, 'mask.tif')

def words = [magnet, 'segment', image.path, *options, '--format', 'geojson', '-o', mask.path]*.toString()
def run = new ProcessBuilder(words).redirectErrorStream(true).start()
run.inputStream.eachLine { println it }
if (run.waitFor() != 0)
    throw new RuntimeException("magnet ended with exit code ${run.exitValue()}: see the lines above")

importObjectsFromFile(new File(folder, 'mask.geojson').path)
fireHierarchyUpdate()
folder.deleteDir()
