// Makes a mask and polygons of every image: nextflow run main.nf --images 'slides/*.svs' --weights aerial
params.images = 'images/*'
params.weights = 'aerial'
params.masks = 'masks'

process segment {
    publishDir params.masks, mode: 'copy'

    input:
    path image

    output:
    path 'out/*'

    script:
    """
    magnet segment '${image}' --weights '${params.weights}' --format geojson -o out/
    """
}

workflow {
    segment(Channel.fromPath(params.images))
}
