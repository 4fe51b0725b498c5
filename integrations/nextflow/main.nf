// Makes a mask and polygons of every image: nextflow run main.nf --images 'slides/*.svs' --weights aerial
params.images = 'images/*'
params.weights = 'aerial'
params.masks = 'masks'

process segment {
    // Nextflow would keep the folder out/ below that of the masks.
    publishDir params.masks, mode: 'copy', saveAs: { name -> name.replaceFirst('out/', '') }

    input:
    path image

    output:
    path 'out/*'

    // Nextflow itself escapes blanks in the name of the image, so that it stands here without quotes.
    script:
    """
    magnet segment ${image} --weights '${params.weights}' --format geojson -o out/
    """
}

workflow {
    segment(channel.fromPath(params.images))
}
