/*
 * Guest code for the tests of an accelerator. Each payload is copied to GUEST_CODE (0x1000) of guest memory and started
 * there; it is position-dependent on that address alone. Ports: 0xF4 ends a payload (the harness kicks the vCPU).
 */
	.section .rodata, "a"

	.macro payload name
	.balign 16
	.globl payload_\name, payload_\name\()_end
payload_\name:
	.endm
	.macro payload_end name
payload_\name\()_end:
	.endm

/* Absolute guest address of a label inside a payload. */
#define AT(name, label) (label - payload_##name + 0x1000)

/* --- real mode: port output and input of all widths; what was read goes out again --- */
	.code16
payload real_ports
	movb $0x11, %al
	outb %al, $0x50
	movw $0x3322, %ax
	movw $0x1234, %dx
	outw %ax, %dx
	movl $0x77665544, %eax
	outl %eax, %dx
	inb %dx, %al
	outb %al, $0x51
	inw %dx, %ax
	outw %ax, $0x52
	inl %dx, %eax
	outl %eax, $0x53
	outb %al, $0xF4
1:	hlt
	jmp 1b
payload_end real_ports

/* --- real mode: string output and input --- */
payload real_strings
	cld
	movw $AT(real_strings, 2f), %si
	movw $0x560, %dx
	movw $5, %cx
	rep outsb
	movw $0x2000, %di
	movw $3, %cx
	rep insw
	movw $0x2000, %si
	movw $3, %cx
	rep outsw
	outb %al, $0xF4
1:	hlt
	jmp 1b
2:	.ascii "vireo"
payload_end real_strings

/* --- real mode: counts in memory, for ever --- */
payload real_count
1:	incl 0x2000
	jmp 1b
payload_end real_count

/* --- long mode: memory-mapped accesses of all widths at 3.25 GiB; what was read goes out by port --- */
	.code64
payload long_mmio
	movl $0xD0000000, %ebx
	movb $0x11, (%rbx)
	movw $0x3322, 2(%rbx)
	movl $0x77665544, 4(%rbx)
	movabsq $0xffeeddccbbaa9988, %rax
	movq %rax, 8(%rbx)
	movzbl 0x10(%rbx), %eax
	outb %al, $0x51
	movzwl 0x12(%rbx), %eax
	outw %ax, $0x52
	movl 0x14(%rbx), %eax
	outl %eax, $0x53
	movq 0x18(%rbx), %rax
	outl %eax, $0x54
	shrq $32, %rax
	outl %eax, $0x55
	outb %al, $0xF4
1:	hlt
	jmp 1b
payload_end long_mmio

/* --- long mode: a triple fault (an interrupt table without entries, then an undefined instruction) --- */
payload long_triple_fault
	lidt AT(long_triple_fault, 1f)
	ud2
1:	.word 0
	.quad 0
payload_end long_triple_fault

/* --- long mode: CPUID. In: list of leaf, subleaf pairs at 0x3000, their count at 0x2ff8. Out: four registers each at 0x4000 --- */
payload long_cpuid
	movl 0x2ff8, %ebp
	movl $0x3000, %esi
	movl $0x4000, %edi
1:	movl (%rsi), %eax
	movl 4(%rsi), %ecx
	cpuid
	movl %eax, (%rdi)
	movl %ebx, 4(%rdi)
	movl %ecx, 8(%rdi)
	movl %edx, 12(%rdi)
	addl $8, %esi
	addl $16, %edi
	decl %ebp
	jnz 1b
	outb %al, $0xF4
2:	hlt
	jmp 2b
payload_end long_cpuid

	.section .note.GNU-stack, "", @progbits
